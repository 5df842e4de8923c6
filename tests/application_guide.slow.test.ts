import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/** Every command of docs/application.md is run, in its order, in a folder of its own. */
const root = new URL("..", import.meta.url).pathname;
const folder = mkdtempSync(path.join(tmpdir(), "kiln-guide-"));
const commands = [
  ...readFileSync(path.join(root, "docs/application.md"), "utf8").matchAll(/```sh\n([\s\S]*?)```/g),
]
  .flatMap(([, block]) => block!.split("\n"))
  .filter(Boolean);

/** What a command prints, by how it begins. */
const prints: [start: string, output: RegExp][] = [
  ["npx kiln serve runs/demo/model", /^$/],
  ["curl -N http://127.0.0.1:8000/api/chat", /^data: \{"type":"chat\.accepted"[\s\S]*"chat\.done"/],
  ["curl http://127.0.0.1:8000/api/conversations", /"title":"Once upon a time"/],
  ["KILN_USERS=multi npx kiln serve", /^$/],
  ["npx kiln user add eve", /^kiln-[\w-]{43}$/],
  ["npx kiln user add cy", /^kiln-[\w-]{43}$/],
  ["npx kiln user list", /^local +admin .*\neve +admin .*\ncy +member /],
  ["npx kiln user disable cy", /disabled$/],
  ["npx kiln user enable cy", /^cy +member +since \S+$/],
  ["npx kiln user token cy", /^kiln-[\w-]{43}$/],
  ["echo 'Goods may be returned within 30 days.' | curl", /"state":"queued","reason":null/],
  ["curl http://127.0.0.1:8000/api/documents", /"name":"returns\.txt"/],
  ["curl http://127.0.0.1:8000/api/retrieve", /"passages":\[[\s\S]*"ranker":"/],
  ["curl http://127.0.0.1:8000/api/notices -d", /"title":"Opening hours",.*"author":"local"/],
  ["curl http://127.0.0.1:8000/api/notices", /^\{"notices":\[\{.*"next":null\}/],
  ["curl http://127.0.0.1:8000/api/me/notices -o", /^$/],
  ["npx kiln backup", /^kiln-backup\.db$/],
  ["npx kiln store check", /message +2 rows[\s\S]*nothing is wrong/],
  ["npx kiln store copy sqlite:kiln-backup.db", /copied and compared [\d,]+ rows/],
  ["curl http://127.0.0.1:8000/api/me/data -o", /^$/],
  [
    "curl -F file=@chats.jsonl http://127.0.0.1:8000/api/conversations/import",
    /"conversations":1,"skipped":\[\]/,
  ],
  ["curl -X DELETE http://127.0.0.1:8000/api/me/data", /"message":4,"conversation":2/],
];

describe("the guide to the application", () => {
  const data = path.join(folder, "kiln-data");
  let server: ServeProcess;
  beforeAll(async () => {
    const env = { ...process.env };
    mkdirSync(path.join(folder, "runs/demo"), { recursive: true });
    await writeTinyModel(path.join(folder, "runs/demo/model"));
    process.env.KILN_DATA_DIR = data;
    delete process.env.DATABASE_URL;
    server = await serveProcess([path.join(folder, "runs/demo/model")]);
    process.env = env;
  });
  afterAll(async () => {
    server?.child.kill("SIGKILL");
    await server?.exited;
    rmSync(folder, { recursive: true, force: true });
  });

  it("has commands that are known here", () => {
    expect(commands.length).toBe(prints.length);
    for (const [i, command] of commands.entries())
      expect(command.startsWith(prints[i]![0]), command).toBe(true);
  });

  it.each(commands)("%s", async (command) => {
    const [, output] = prints.find(([start]) => command.startsWith(start))!;
    // The server runs already; how several people use one is in tests/users.test.ts.
    if (/npx kiln serve/.test(command)) return expect(server.output()).toMatch(/Serving .* at http/);
    const here = command
      .replace(/^npx kiln/, `${process.execPath} ${path.join(root, "bin/kiln.mjs")}`)
      .replace("http://127.0.0.1:8000", server.url)
      .replace(/"stream":true/, '"stream":true,"params":{"max_tokens":8}');
    const env = { ...process.env, KILN_DATA_DIR: "", DATABASE_URL: "" };
    const { stdout, stderr } = await promisify(execFile)("bash", ["-c", here], { cwd: folder, env });
    expect(`${stdout.trim()}${/check|copy/.test(command) ? stderr : ""}`).toMatch(output);
    return undefined;
  });
});
