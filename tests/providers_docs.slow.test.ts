import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openReference, setDevice } from "../index.ts";
import { send } from "./serve_fake.ts";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";
import { labels, randomBert, wordPieces } from "./support/word_pieces.ts";

/**
 * The file and the commands of docs/providers.md, as they stand there: another kiln is the cloud and the Ollama at home, models
 * have random weights.
 */
const page = readFileSync("docs/providers.md", "utf8");
const [, yaml] = /```yaml\n([\s\S]*?)```/.exec(page)!;
const commands = /```sh\n([\s\S]*?)```/.exec(page)![1]!.trim().split("\n");
const folder = mkdtempSync(path.join(tmpdir(), "kiln-providers-docs-"));
const KEY = "sk-canary-docs";
const LONG_MS = 500_000;
let cloud: ServeProcess;
const servers: ServeProcess[] = [];
const saved = { ...process.env };

beforeAll(async () => {
  process.env.DATABASE_URL = `sqlite:${path.join(folder, "kiln.db")}`;
  process.env.OPENAI_API_KEY = KEY;
  const made = (name: string) => path.join(folder, "runs", name, "model");
  for (const name of ["demo", "far"]) await writeTinyModel(made(name));
  setDevice(openReference());
  for (const [i, name] of ["a", "b"].entries())
    await randomBert("ForSequenceClassification", labels)
      .init(i + 5)
      .savePretrained(made(name), wordPieces());
  cloud = await serve(["gpt-4o-mini,llama3.2:1b=runs/far/model", "--api-key", KEY]);
  const local = yaml!
    .replace("https://api.openai.com/v1", `${cloud.url}/v1\n    allow_private: true`)
    .replace("http://127.0.0.1:11434", `${cloud.url}\n    key_env: OPENAI_API_KEY`);
  writeFileSync(path.join(folder, "providers.yaml"), local);
  const lines = (name: string, row: (i: number) => object) =>
    writeFileSync(
      path.join(folder, name),
      Array.from({ length: 24 }, (_, i) => `${JSON.stringify(row(i))}\n`).join(""),
    );
  const names = Object.values(labels.id2label);
  lines("questions.jsonl", (i) => ({ prompt: `once ${i}`, answer: "upon a time" }));
  lines("labelled.jsonl", (i) => ({ text: `a film ${i}`, label: names[i % names.length] }));
}, LONG_MS);
afterAll(async () => {
  for (const { child, exited } of servers) {
    child.kill("SIGTERM");
    child.kill("SIGTERM");
    await exited;
  }
  Object.assign(process.env, { DATABASE_URL: saved.DATABASE_URL, OPENAI_API_KEY: saved.OPENAI_API_KEY });
  setDevice(null);
  rmSync(folder, { recursive: true });
});

async function serve(args: readonly string[]): Promise<ServeProcess> {
  servers.push(await serveProcess(args, 0, folder));
  return servers.at(-1)!;
}

/** Runs a command of the page in the folder. */
function run(command: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const args = [path.resolve("bin/kiln.mjs"), ...command.split(" ").slice(1)];
  return new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: folder }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
    );
  });
}

it("the page has these commands, of which each is run below", () => {
  expect(commands.map((command) => command.split(" ").slice(0, 3).join(" ").replace(/=.*/, ""))).toEqual([
    ...["kiln serve demo", "kiln provider test", "kiln route fit", "kiln route fit"],
  ]);
});

it(
  "kiln serve: every name of the file answers, and kiln usage counts it",
  async () => {
    const { url } = await serve(commands[0]!.split(" ").slice(2));
    for (const model of ["demo", "gpt-4o-mini", "llama", "best", "auto"]) {
      const { status, body } = await send(`${url}/api/chat`, {
        json: { user_id: "local", query: "once upon", model, params: { temperature: 0, max_tokens: 4 } },
      });
      expect([model, status, typeof (body as { response: string }).response]).toEqual([model, 200, "string"]);
    }
    const classified = await send(`${url}/classify`, { json: { model: "spam", input: ["a good film"] } });
    expect(classified.status).toBe(200);
    const { stdout, code } = await run("kiln usage --json");
    const { rows, total } = JSON.parse(stdout);
    const sum = (key: string) =>
      rows.reduce((all: number, row: Record<string, number>) => all + row[key]!, 0);
    expect([code, total.requests, total.cost_microusd]).toEqual([0, sum("requests"), sum("cost_microusd")]);
    // One each of demo, gpt-4o-mini and llama, four of the ensemble, one or two of the route.
    expect(total.requests).toBeGreaterThanOrEqual(8);
    expect(total.requests).toBeLessThanOrEqual(9);
  },
  LONG_MS,
);

it(
  "kiln provider test and kiln route fit",
  async () => {
    const probed = await run(commands[1]!);
    expect([probed.code, probed.stderr]).toEqual([0, ""]);
    expect(probed.stdout).toMatch(
      /^reachable +yes.*\nkey accepted +yes.*\nmodel gpt-4o-mini +yes.*\nfirst token +yes/,
    );
    const route = await run(`${commands[2]!} --max-tokens 4`);
    expect([route.code, route.stdout]).toEqual([
      0,
      expect.stringMatching(/^auto: demo, gpt-4o-mini\n[\s\S]*\ntau: \d/),
    ]);
    const vote = await run(commands[3]!);
    expect([vote.code, vote.stdout]).toEqual([
      0,
      expect.stringMatching(/^spam: spam-a, spam-b\n[\s\S]*\nfitted:\n/),
    ]);
  },
  LONG_MS,
);
