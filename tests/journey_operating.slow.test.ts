import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Analytics } from "../serve/app/protocol.ts";
import { fakeChatTokenizer } from "./serve_fake.ts";
import { callAs } from "./support/call_as.ts";
import { noPostgres, type Postgres, startPostgres } from "./support/databases.ts";
import { parsePrometheus } from "./support/prometheus.ts";
import { startS3 } from "./support/s3_stub.ts";
import { makeEndless, type ServeProcess, serveProcess, writeTinyModel } from "./support/serve_process.ts";

/**
 * Journey J5 of the design: a server with users and documents is watched, backed up and stopped while it answers, and goes on on Postgres
 * and S3 with all that it had. Containers are what the tests of docs/deploy are about: the same program with the same variables.
 */

const kiln = path.resolve(import.meta.dirname, "../bin/kiln.mjs");
const folder = mkdtempSync(path.join(tmpdir(), "kiln-operating-"));
const own = (name: string) => path.join(folder, name);
const before = { ...process.env };
let postgres: Postgres | null = null;
let s3: Awaited<ReturnType<typeof startS3>>;
let server: ServeProcess;
const tokens: Record<string, string> = {};

beforeAll(async () => {
  for (const name of ["DATABASE_URL", "KILN_BLOBS"]) delete process.env[name];
  Object.assign(process.env, { KILN_DATA_DIR: own("data"), KILN_USERS: "multi" });
  Object.assign(process.env, { AWS_ACCESS_KEY_ID: "key", AWS_SECRET_ACCESS_KEY: "secret" });
  [postgres, s3] = await Promise.all([startPostgres(), startS3("secret"), writeTinyModel(own("demo"))]);
  makeEndless(own("demo"), fakeChatTokenizer());
  for (const [name, role] of [
    ["eve", "admin"],
    ["cy", "member"],
  ] as const)
    tokens[name] = (await said("user", "add", name, "--role", role)).trim();
  server = await serveProcess([`demo=${own("demo")}`]);
});
afterAll(async () => {
  server?.child.kill("SIGKILL");
  await server?.exited;
  await Promise.all([postgres?.stop(), s3?.stop()]);
  process.env = before;
  rmSync(folder, { recursive: true, force: true });
});

/** What a command prints. */
const said = async (...args: string[]): Promise<string> => {
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [kiln, ...args]);
  return stdout + stderr;
};
const called = callAs(() => server.url, tokens);
const json = async (user: string, method: string, target: string, body?: FormData | object) =>
  (await called(user, method, target, body)).json();
const asked = (query: string, more: object = {}) => ({ user_id: "cy", query, ...more });
const write = (max_tokens: number) => ({ retrieve: "off", params: { max_tokens, temperature: 0 } });

/** An answer that is being written. */
async function writing() {
  const stream = await called("cy", "POST", "/api/chat", asked("go on", { ...write(1900), stream: true }));
  const pieces = stream.body!.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  let [all, over] = ["", false];
  const read = async (enough: () => boolean): Promise<string> => {
    while (!over && !enough()) {
      const { value, done } = await pieces.next();
      all += value ?? "";
      over = done === true;
    }
    return all;
  };
  await read(() => all.includes('"chat.delta"'));
  return { text: read(() => false), isOver: () => over };
}

/** The documents' answer, from whatever store and blobs the server has. */
async function answersFromDocuments(): Promise<void> {
  const answer = await json("cy", "POST", "/api/chat", asked("When are the boilers swept?"));
  expect(answer.response).toContain("swept every October");
  expect(answer.citations).toMatchObject([{ n: 1, name: "house.txt" }]);
  const { documents } = await json("cy", "GET", "/api/documents");
  const content = await called("cy", "GET", `/api/documents/${documents[0].id}/content`);
  expect(await content.text()).toContain("swept every October");
}

describe("J5: operating it", () => {
  it("the page's analytics and /metrics agree to the token", async () => {
    for (const query of ["once upon a time", "and then", "the end"])
      expect((await called("cy", "POST", "/api/chat", asked(query, write(8)))).status).toBe(200);
    const analytics: Analytics = await json("eve", "GET", "/api/analytics");
    const families = parsePrometheus(await (await called("eve", "GET", "/metrics")).text());
    const sum = (name: string) =>
      families.get(`kiln:${name}`)!.samples.reduce((total, { value }) => total + value, 0);
    expect([analytics.totals.answers, analytics.totals.users]).toEqual([3, 1]);
    expect(sum("request_success_total")).toBe(3);
    const [usage] = analytics.usage;
    expect(sum("prompt_tokens_total")).toBe(usage!.prompt_tokens);
    expect(sum("generation_tokens_total")).toBe(usage!.completion_tokens);
  });

  it("is backed up and checked while it writes an answer", async () => {
    const form = new FormData();
    form.append("file", new Blob(["The boilers are swept every October by the man from Hull."]), "house.txt");
    form.append("metadata", JSON.stringify({ user_id: "cy", data_type: "text" }));
    const { documents } = await json("cy", "POST", "/api/upload", form);
    const at = `/api/documents/${documents[0].id}`;
    await expect.poll(async () => (await json("cy", "GET", at)).state, { timeout: 60_000 }).toBe("ready");
    await answersFromDocuments();

    const answer = await writing();
    expect(await said("backup", own("saved.db"))).toBe(`${own("saved.db")}\n`);
    expect(await said("store", "check", `sqlite:${own("saved.db")}`)).toMatch(
      /message +\d+ rows[\s\S]*nothing is wrong/,
    );
    expect(await said("store", "check")).toContain("nothing is wrong");
    expect(answer.isOver()).toBe(false);
    expect(await answer.text).toContain('"chat.done"');
  });

  it("a SIGTERM lets it end what it writes, and take nothing new", async () => {
    const answer = await writing();
    server.child.kill("SIGTERM");
    const taken = () =>
      fetch(`${server.url}/ready`).then(
        ({ status }) => status,
        () => 503,
      );
    await expect.poll(taken, { interval: 5 }).toBe(503);
    expect(answer.isOver()).toBe(false);
    expect(await answer.text).toContain('"chat.done"');
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  it("goes on on Postgres and S3 with all that it had", async (test) => {
    if (!postgres) return test.skip(noPostgres!);
    const database = postgres.url("operating");
    const from = `sqlite:${own("data/kiln.db")}`;
    expect(await said("store", "copy", from, database)).toMatch(
      /copied and compared [\d,]+ rows of \d+ tables/,
    );
    expect(await said("store", "copy", `fs:${own("data/blobs")}`, s3.address)).toMatch(
      /copied and compared \d+ blobs/,
    );
    // Nothing of the old folder can help.
    Object.assign(process.env, {
      DATABASE_URL: database,
      KILN_BLOBS: s3.address,
      KILN_DATA_DIR: own("other"),
    });
    server = await serveProcess([`demo=${own("demo")}`]);
    await answersFromDocuments();
    const { conversations } = await json("cy", "GET", "/api/conversations");
    expect(conversations.length).toBe(7);
    const { totals }: Analytics = await json("eve", "GET", "/api/analytics");
    expect(totals.answers).toBe(7);
    expect(await said("store", "check")).toContain("nothing is wrong");
    expect((await called("cy", "GET", "/api/users")).status).toBe(403);
  });
});
