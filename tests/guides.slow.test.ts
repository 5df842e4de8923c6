import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** Every command of the operator's guides is run, in its order, in a folder of its own beside one server. */
const root = new URL("..", import.meta.url).pathname;
const folder = mkdtempSync(path.join(tmpdir(), "kiln-guides-"));
const page = (name: string) => readFileSync(path.join(root, "docs", name), "utf8");
const commandsOf = (name: string) =>
  [...page(name).matchAll(/```sh\n([\s\S]*?)```/g)]
    .flatMap(([, block]) => block!.trim().split("\n"))
    .filter((command) => !elsewhere.includes(command));

/** Commands of the README too, whose test runs them. */
const elsewhere = ["npx kiln doctor"];
/** What commands print on either output, by how they begin. */
const prints: Record<string, [start: string, output: RegExp][]> = {
  "requests.md": [
    ["curl http://127.0.0.1:8000/v1/models", /"id":"demo"/],
    ['curl --json \'{"model":"demo","prompt":"Once upon', /"text":"[\s\S]*"completion_tokens":8/],
    ["curl -N --json", /^data: \{[\s\S]*chat\.completion\.chunk[\s\S]*data: \[DONE\]$/],
    ['curl --json \'{"model":"demo","prompt":"Once","max', /"text":"/],
    ['curl --json \'{"model":"demo","prompt":"Is it', /"text":"(yes|no)"/],
    ['curl --json \'{"model":"demo","prompt":"Once upon a time"}', /"tokens":\[\d/],
    ["curl -N http://127.0.0.1:8000/api/chat", /^data: \{"type":"chat\.accepted"[\s\S]*"chat\.done"/],
    ["curl http://127.0.0.1:8000/api/conversations", /"title":"Once upon a time"/],
    ["curl 'http://127.0.0.1:8000/api/search", /"conversation_id":"/],
    ["curl http://127.0.0.1:8000/api/usage", /"model":"demo"/],
    ['curl --json \'{"model":"another"', /^\{"error":\{"message":".*another.*"code":"model_not_found"\}\}$/],
  ],
  "operation.md": [
    ["npx kiln user add ada", /^kiln-[\w-]{43}$/],
    ["npx kiln user list", /ada +admin /],
    ["curl http://127.0.0.1:8000/health", /ok/],
    ["curl http://127.0.0.1:8000/ready", /ready|ok/],
    ["curl http://127.0.0.1:8000/metrics", /kiln:num_requests_running\{/],
    ["npx kiln store check", /nothing is wrong$/],
    ["npx kiln backup saved.db", /^saved\.db$/],
    ["npx kiln store copy", /copied and compared [\d,]+ rows/],
    ["npx kiln jobs work --once", /^working on jobs of /],
    ["npx kiln jobs list", /^there are no jobs yet/],
  ],
  "comparing.md": [
    ["npx kiln eval perplexity", /bits_per_byte/],
    ["npx kiln eval compare", /difference/],
    ["npx kiln eval text", /BLEU[\s\S]*distinct/],
    ["npx kiln eval coherence", /\| shuffled +\|[\s\S]*\| foreign +\|/],
    ["npx kiln eval bias", /gender: female/],
    ["npx kiln model add assistant runs/demo", /^assistant@1/],
    ["npx kiln model alias", /assistant@prod stands for assistant@1/],
    ["npx kiln model add assistant runs/other", /^assistant@2/],
    ["npx kiln ab start", /assistant/],
    ["npx kiln ab status", /assistant/],
    ["npm run load -- runs/demo/model", /requests\/s|TTFT|ttft/],
    ["npm run load -- http", /"completed":4,"failed":0/],
  ],
  "troubleshooting.md": [
    ["curl -i http://127.0.0.1:8000/ready", /^HTTP\/1\.1 200/],
    ["npx kiln store check", /nothing is wrong$/],
  ],
};

describe("the operator's guides", () => {
  let server: ServeProcess;
  beforeAll(async () => {
    for (const name of ["demo", "other"]) {
      mkdirSync(path.join(folder, "runs", name), { recursive: true });
      await writeTinyModel(path.join(folder, "runs", name, "model"));
    }
    symlinkSync(path.join(root, "docs"), path.join(folder, "docs"));
    const stories = [1, 2, 3, 4].map((i) => ({ text: `One day he came ${i}. She saw him. They went home.` }));
    writeFileSync(
      path.join(folder, "held-out.jsonl"),
      stories.map((each) => JSON.stringify(each)).join("\n"),
    );
    for (const name of ["said.txt", "right.txt"]) writeFileSync(path.join(folder, name), "the cat sat\n");
    const saved = { ...process.env };
    process.env.KILN_DATA_DIR = path.join(folder, "kiln-data");
    delete process.env.DATABASE_URL;
    server = await serveProcess([path.join(folder, "runs/demo/model")]);
    process.env = saved;
  });
  afterAll(async () => {
    server?.child.kill("SIGKILL");
    await server?.exited;
    rmSync(folder, { recursive: true, force: true });
  });

  describe.each(Object.keys(prints))("%s", (name) => {
    const commands = commandsOf(name);

    it("has commands that are known here", () => {
      expect(commands.map((command, i) => command.slice(0, prints[name]![i]?.[0].length))).toEqual(
        prints[name]!.map(([start]) => start),
      );
    });

    it.each(commands.map((command, i) => [command, prints[name]![i]?.[1]] as const))(
      "%s",
      async (command, output) => {
        const here = command
          .replace(/^npx kiln/, `${process.execPath} ${path.join(root, "bin/kiln.mjs")}`)
          .replace(/^npm run load --/, `${process.execPath} ${path.join(root, "bin/load_test.mjs")}`)
          .replace("http://127.0.0.1:8000", server.url)
          .replace(/"stream":true\}'$/, '"stream":true,"params":{"max_tokens":8}}\'');
        const env = { ...process.env, KILN_DATA_DIR: "", DATABASE_URL: "", KILN_REGISTRY: "" };
        const { stdout, stderr } = await promisify(execFile)("bash", ["-c", here], { cwd: folder, env });
        const isCurl = command.startsWith("curl");
        expect(`${stdout.trim()}${isCurl ? "" : stderr}`.trim()).toMatch(output!);
      },
    );
  });

  it("npm run load is the script that is run here", () => {
    const { scripts } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
    expect(scripts.load).toBe("node bin/load_test.mjs");
  });

  it("troubleshooting quotes messages that kiln has, and has an answer to each alert", () => {
    const [, messages, alerts] = /## Messages\n([\s\S]*?)## Symptoms[\s\S]*## Alerts\n([\s\S]*)$/.exec(
      page("troubleshooting.md"),
    )!;
    const named = (text: string) => [...text.matchAll(/^\| `([^`]+)`/gm)].map(([, name]) => name!);
    const sources = execFileSync("git", ["grep", "-h", "", "--", "*.ts", ":!tests"], {
      ...{ cwd: root, encoding: "utf8", maxBuffer: 2 ** 28 },
    });
    expect(named(messages!).filter((message) => !sources.includes(message))).toEqual([]);
    expect(named(messages!).length).toBeGreaterThan(8);
    const { groups } = parse(page("deploy/alerts.yaml")) as { groups: { rules: { alert: string }[] }[] };
    expect(named(alerts!)).toEqual(groups.flatMap(({ rules }) => rules.map(({ alert }) => alert)));
  });
});
