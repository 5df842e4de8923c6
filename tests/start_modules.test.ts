import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), "kiln-start-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What `kiln serve` starts besides its models; then a first request that wants the store. */
const program = `
import { takeCoverage } from "node:v8";
import "./serve/commands.ts";
import "./serve/serve_model.ts";
import { applicationHost } from "./serve/app/index.ts";
import { ModelPool } from "./serve/models.ts";
import { createServer } from "./serve/server.ts";
const models = new ModelPool();
const server = createServer({ models, application: applicationHost(models) });
const url = await server.listen({ port: 0 });
if (!(await fetch(url + "/health")).ok) process.exit(1);
takeCoverage();
if (!(await fetch(url + "/api/conversations")).ok) process.exit(1);
takeCoverage();
await server.close(0);`;

/** As node names a file: the process, the time, a number. */
const timeOf = (name: string) => Number(/-(\d+)-\d+\.json$/.exec(name)![1]);

/** The files of code that a process had loaded each time it was asked, which node writes down by itself. */
function loaded(): [Set<string>, Set<string>] {
  const coverage = path.join(folder, "coverage");
  const { status, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", program],
    {
      cwd: root,
      encoding: "utf8",
      env: { ...process.env, NODE_V8_COVERAGE: coverage, KILN_DATA_DIR: path.join(folder, "data") },
    },
  );
  expect([status, stderr]).toEqual([0, ""]);
  const lists = readdirSync(coverage)
    .sort((a, b) => timeOf(a) - timeOf(b))
    .map((name) => JSON.parse(readFileSync(path.join(coverage, name), "utf8")))
    .map(({ result }: { result: { url: string }[] }) => result.map(({ url }) => url))
    // tsx has a thread and a process of its own.
    .filter((urls) => urls.some((url) => url.includes("/serve/")));
  return [new Set(lists[0]), new Set(lists.flat())];
}

it("a server starts without a store and without a parser of files, which a first request does not bring either", () => {
  const [started, asked] = loaded();
  const { optionalDependencies } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as {
    optionalDependencies: Record<string, string>;
  };
  const has = (list: Set<string>, part: string) => [...list].some((url) => url.includes(part));
  const found = (list: Set<string>, parts: readonly string[]) => parts.filter((part) => has(list, part));
  const packages = (names: readonly string[]) => names.map((name) => `/node_modules/${name}/`);
  const never = [
    ...packages([...Object.keys(optionalDependencies), "tesseract.js", "highlight.js"]),
    ...["/serve/app/ingest/extract.ts", "/serve/app/sandbox/", "/serve/app/explain/", "/serve/page/"],
  ];
  const later = packages(["libsql", "@fastify/busboy", "aws4fetch", "obscenity", "franc-min"]);
  expect(found(started, ["/serve/server.ts", ...packages(["fastify", "@fastify/websocket"])])).toHaveLength(
    3,
  );
  expect(found(started, [...never, ...later, "/serve/app/application.ts"])).toEqual([]);
  expect(found(asked, [...packages(["libsql"]), "/serve/app/application.ts"])).toHaveLength(2);
  expect(found(asked, never)).toEqual([]);
});
