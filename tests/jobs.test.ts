import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { parseReference } from "../models/registry/names.ts";
import { LogFollower } from "../serve/app/jobs/follow.ts";
import { modelOf } from "../serve/app/jobs/names.ts";
import { payloadOf } from "../serve/app/jobs/payload.ts";
import { openBlobs } from "../serve/store/index.ts";
import { jobById } from "../serve/store/queue.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";
import { lessonsOf } from "./support/lessons.ts";

/** What is asked of jobs, without anybody who works on them. */

const folder = mkdtempSync(path.join(tmpdir(), "kiln-jobs-"));
let server: ChatServer;
beforeAll(async () => {
  vi.stubEnv("KILN_JOBS", "elsewhere");
  vi.stubEnv("KILN_DATA_DIR", folder);
  vi.stubEnv("KILN_REGISTRY", path.join(folder, "registry"));
  server = await chatServer("jobs", "single", { path: "/models/base" });
});
afterAll(async () => {
  await server.server.close(0);
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

async function upload(user_id: string, name: string, content: string): Promise<void> {
  const form = new FormData();
  form.set("metadata", JSON.stringify({ user_id }));
  form.set("file", new Blob([content]), name);
  const sent = await fetch(`${server.url}/api/upload`, { method: "POST", body: form });
  const { documents } = (await sent.json()) as { documents: { id: string }[] };
  const at = `/api/documents/${documents[0]!.id}?user_id=${user_id}`;
  await expect.poll(async () => (await server.ask("GET", at)).body.state, { timeout: 30_000 }).toBe("ready");
}

const fineTune = (user_id: string, parameters?: object, how = "") =>
  server.ask("POST", `/api/fine-tune${how}`, { user_id, ...(parameters && { parameters }) });
const filesOf = async (id: string): Promise<string[]> => {
  const { store } = await server.host.open();
  const blobs = await openBlobs(`fs:${path.join(path.dirname(server.file), "blobs")}`);
  const { files } = payloadOf((await jobById(store, id))!);
  return Promise.all(files.map(async ({ key }) => text((await blobs.get(key)) as never)));
};

describe("a fine-tune", () => {
  it("wants 20 examples or 2,000 tokens, and says how many there are", async () => {
    const none = await fineTune("ada");
    expect([none.status, none.body.error.code]).toEqual([422, "too_little_data"]);
    expect(none.body.error.message).toMatch(/^there are 0 examples with 0 tokens/);
    await upload("ada", "few.csv", lessonsOf("yes", 19));
    const few = await fineTune("ada");
    expect(few.body.error.message).toMatch(/^there are 19 examples with \d+ tokens to learn from/);
    await upload("ada", "one.csv", lessonsOf("no", 1));
    expect((await fineTune("ada", undefined, "/estimate")).body).toMatchObject({ examples: 20 });
    await upload("prose", "tale.txt", Array.from({ length: 400 }, (_, i) => `Day ${i} was calm.`).join(" "));
    expect((await fineTune("prose", undefined, "/estimate")).status).toBe(200);
  });

  it("of the seed's form waits as a job; the same again is refused, and more than three that wait", async () => {
    const started = await fineTune("ada", { epochs: 5, learning_rate: 0.001 });
    expect([started.status, Object.keys(started.body)]).toEqual([202, ["job_id", "estimate"]]);
    const { job_id } = started.body;
    const job = await server.ask("GET", `/api/fine-tune/${job_id}?user_id=ada`);
    expect(job.body).toMatchObject({
      ...{ id: job_id, kind: "finetune", state: "queued", progress: 0, result: null },
      parameters: { epochs: 5, learning_rate: 0.001, rank: 8, method: "lora", dataset: "documents" },
    });
    const { store } = await server.host.open();
    expect(payloadOf((await jobById(store, job_id))!).settings).toMatchObject({
      model: { init_from: "/models/base" },
      adapter: { kind: "lora", rank: 8, alpha: 16, targets: ["all-linear"] },
      data: { validation_fraction: 0.1 },
      eval: { patience: 3 },
    });
    const again = await fineTune("ada", { epochs: 5 });
    expect([again.status, again.body.error.message]).toEqual([409, expect.stringContaining(job_id)]);
    for (const epochs of [1, 2]) expect((await fineTune("ada", { epochs })).status).toBe(202);
    const fourth = await fineTune("ada", { epochs: 3 });
    expect([fourth.status, fourth.body.error.code]).toEqual([429, "too_many_jobs"]);
    const list = await server.ask("GET", "/api/jobs?kind=finetune&user_id=ada");
    expect(list.body.jobs.map(({ parameters }: never) => (parameters as { epochs: number }).epochs)).toEqual([
      2, 1, 5,
    ]);
  });

  it("that waits is cancelled at once, and can go on", async () => {
    const [{ id }] = (await server.ask("GET", "/api/jobs?kind=finetune&user_id=ada")).body.jobs;
    const cancelled = await server.ask("POST", `/api/jobs/${id}/cancel?user_id=ada`);
    expect([cancelled.status, cancelled.body.state]).toEqual([202, "cancelled"]);
    expect((await server.ask("POST", `/api/jobs/${id}/cancel?user_id=ada`)).status).toBe(409);
    const resumed = await server.ask("POST", `/api/jobs/${id}/resume?user_id=ada`);
    expect(resumed.body).toMatchObject({ state: "queued", resumes: id });
    expect((await server.ask("POST", `/api/jobs/${resumed.body.id}/resume?user_id=ada`)).status).toBe(409);
    for (const what of ["", "/events", "/cancel", "/resume"]) {
      const method = /cancel|resume/.test(what) ? "POST" : "GET";
      expect((await server.ask(method, `/api/jobs/${id}${what}?user_id=ben`)).status).toBe(404);
    }
  });

  it("learns files of conversations as they are, prose as what follows its title", async () => {
    await upload(
      "mixed",
      "chats.jsonl",
      `${JSON.stringify({
        messages: [
          { role: "user", content: "who sings" },
          { role: "assistant", content: "the whale" },
        ],
      })}\n`.repeat(20),
    );
    await upload(
      "mixed",
      "Whales.md",
      "# Songs\n\nWhales sing for hours. They learn songs from one another.",
    );
    const { body } = await fineTune("mixed");
    const [chats, passages] = await filesOf(body.job_id);
    expect(chats!.split("\n").filter(Boolean)).toHaveLength(20);
    const rows = passages!
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).messages);
    expect(rows.map(([title]) => title.content)).toEqual(
      rows.map(() => expect.stringMatching(/Whales|Songs/)),
    );
    expect(rows.map(([, passage]) => passage.content).join(" ")).toContain("Whales sing for hours.");
  });

  it("learns corrections as preferences", async () => {
    const params = { max_tokens: 4, temperature: 0 };
    for (let i = 0; i < 20; i++) {
      const said = await server.ask("POST", "/api/chat", {
        ...{ user_id: "dpo", query: `once upon ${i}`, consent: true, params },
      });
      const { message_id } = said.body;
      await server.ask("POST", `/api/feedback?user_id=dpo`, {
        message_id,
        rating: -1,
        correction: `better ${i}`,
      });
    }
    const { body } = await fineTune("dpo", { method: "dpo" });
    const [pairs] = await filesOf(body.job_id);
    const [first] = pairs!
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(first).toMatchObject({
      prompt: [{ role: "user", content: "once upon 0" }],
      chosen: [{ role: "assistant", content: "better 0" }],
    });
    const { store } = await server.host.open();
    expect(payloadOf((await jobById(store, body.job_id))!).recipe).toBe("preference");
  });

  it.each([
    [{ epochs: 51 }, "parameters.epochs"],
    [{ learning_rate: 0.1 }, "parameters.learning_rate"],
    [{ epoch: 5 }, "parameters"],
    [{ base: "other" }, "parameters.base"],
    [{ method: "dpo", dataset: "documents" }, "parameters.method"],
  ])("refuses %j", async (parameters, param) => {
    const { status, body } = await fineTune("ada", parameters);
    expect([status, body.error.param]).toEqual([422, expect.stringContaining(param)]);
    expect(body.error.message).not.toContain("\n");
  });

  it("is deleted with all that its user gave", async () => {
    const { body } = await server.ask("DELETE", "/api/me/data?user_id=mixed");
    expect(body.deleted).toMatchObject({ job: 3, adapter: 0, document: 2 });
    expect((await server.ask("GET", "/api/jobs?user_id=mixed")).body.jobs).toEqual([]);
    const blobs = await openBlobs(`fs:${path.join(path.dirname(server.file), "blobs")}`);
    for await (const { key } of blobs.list())
      expect(await text((await blobs.get(key)) as never)).not.toContain("whale");
  });
});

it("every person has a model of a name of its own (property)", () => {
  const name = fc.stringMatching(/^[\w.@+-]{1,100}$/);
  void fc.assert(
    fc.property(name, name, (a, b) => {
      expect(parseReference(modelOf(a))).toMatchObject({ version: null });
      expect(modelOf(a).toLowerCase()).toBe(modelOf(a));
      expect(modelOf(`local/${a}`) === modelOf(`local/${b}`)).toBe(a === b);
    }),
  );
  expect([modelOf("12345"), modelOf("local/12345"), modelOf("Ada@x")]).toEqual([
    ...["user-12345", "user-12345", "user-_41da_40x"],
  ]);
});

it("a log is read as it grows, each line once (property)", async () => {
  const file = path.join(folder, "log.jsonl");
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(), { minLength: 1 }), fc.array(fc.nat(40)), async (values, cuts) => {
      const whole = values.map((value, step) => `${JSON.stringify({ step, value })}\n`).join("");
      rmSync(file, { force: true });
      const follower = new LogFollower(file);
      const read = [...(await follower.next())];
      writeFileSync(file, "");
      let at = 0;
      for (const cut of [...cuts, whole.length]) {
        appendFileSync(file, whole.slice(at, at + cut));
        at += cut;
        read.push(...(await follower.next()));
      }
      expect(read.map(({ value }) => value)).toEqual(values);
    }),
    { numRuns: 30 },
  );
});
