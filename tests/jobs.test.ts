import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import WebSocket from "ws";
import { Command } from "../core/platform/command_line.ts";
import { parseReference } from "../models/registry/names.ts";
import { addJobCommands } from "../serve/app/jobs/commands.ts";
import { runsFolder } from "../serve/app/jobs/fine_tune_worker.ts";
import { LogFollower } from "../serve/app/jobs/follow.ts";
import { modelOf } from "../serve/app/jobs/names.ts";
import { payloadOf } from "../serve/app/jobs/payload.ts";
import type { JobEvent, JobUpdate, ServerEvent } from "../serve/app/protocol.ts";
import { openBlobs } from "../serve/store/index.ts";
import { addJobEvent, jobById, openQueue } from "../serve/store/queue.ts";
import { type ChatServer, chatServer } from "./support/chat_server.ts";
import { lessonsOf } from "./support/lessons.ts";

/** What is asked of jobs, without anybody who works on them. */

const folder = mkdtempSync(path.join(tmpdir(), "kiln-jobs-"));
let server: ChatServer;
beforeAll(async () => {
  vi.stubEnv("KILN_JOBS", "elsewhere");
  vi.stubEnv("KILN_DATA_DIR", folder);
  vi.stubEnv("KILN_REGISTRY", path.join(folder, "registry"));
  server = await chatServer("jobs", "single", { path: "models/base" });
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
      model: { init_from: path.resolve("models/base") },
      adapter: { kind: "lora", rank: 8, alpha: 16, targets: ["all-linear"] },
      data: { validation_fraction: 0.1, min_updates: 10 },
      eval: { every: 10, patience: 8 },
      checkpoint: { every: 10 },
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
    // Three wait again: no other joins them by being resumed.
    const { store } = await server.host.open();
    await store.run("UPDATE job SET state = 'failed' WHERE id = ?", [resumed.body.id]);
    expect((await fineTune("ada", { epochs: 4 })).status).toBe(202);
    const more = await server.ask("POST", `/api/jobs/${resumed.body.id}/resume?user_id=ada`);
    expect([more.status, more.body.error.code]).toEqual([429, "too_many_jobs"]);
    await store.run("UPDATE job SET state = 'queued' WHERE id = ?", [resumed.body.id]);
    expect((await server.ask("POST", `/api/jobs/${resumed.body.id}/resume?user_id=ada`)).status).toBe(409);
    for (const what of ["", "/events", "/cancel", "/resume"]) {
      const method = /cancel|resume/.test(what) ? "POST" : "GET";
      expect((await server.ask(method, `/api/jobs/${id}${what}?user_id=ben`)).status).toBe(404);
    }
  });

  it("runs in a folder whose path is whole, wherever the data folder is named from", () => {
    vi.stubEnv("KILN_DATA_DIR", "kiln-data");
    expect(runsFolder()).toBe(path.resolve("kiln-data/jobs"));
    vi.stubEnv("KILN_DATA_DIR", folder);
  });

  it("that failed is listed with the reason", async () => {
    const { store } = await server.host.open();
    const { body } = await fineTune("prose", { epochs: 7 });
    await store.run("UPDATE job SET state = 'failed', error = 'no memory' WHERE id = ?", [body.job_id]);
    vi.stubEnv("DATABASE_URL", `sqlite:${server.file}`);
    const written = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      const program = new Command();
      addJobCommands(program);
      await program.parseAsync(["jobs", "list"], { from: "user" });
      const lines = written.mock.calls.map(([line]) => line);
      expect(lines.find((line) => `${line}`.includes(body.job_id))).toMatch(
        / failed +0% +\S*prose\n +no memory\n$/,
      );
    } finally {
      written.mockRestore();
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

  it("learns code with its indentation, cut between lines", async () => {
    const method = (i: number) =>
      [
        `    def step_${i}(self, x):`,
        "\tif x:  # tab",
        `            return x + ${i}`,
        "        return None",
      ].join("\n");
    const code = ["class Machine:", ...Array.from({ length: 60 }, (_, i) => method(i))].join("\n\n");
    await upload("coder", "machine.py", `${code}\n`);
    const { body } = await fineTune("coder");
    const [passages] = await filesOf(body.job_id);
    const rows = passages!.trim().split("\n");
    const learned = rows.map((line) => JSON.parse(line).messages[1].content as string);
    expect(rows.length).toBeGreaterThan(5);
    // Whole lines, all of them, each as it was: only the empty lines where it is cut are gone.
    const lines = (text: string) => text.split("\n").filter((line) => line.trim() !== "");
    expect(learned.flatMap(lines)).toEqual(lines(code));
    expect(learned.some((text) => text.startsWith("    def"))).toBe(true);
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

describe("what is told of a job", () => {
  const heardOf = <T>(what: () => T) => expect.poll(what, { timeout: 10_000 });

  /** A job of somebody, and what tells of it as another process would that works on it. */
  async function told(userId: string) {
    const { store } = await server.host.open();
    const queue = await openQueue(store);
    const kind = `other of ${userId}`;
    const id = await queue.add({ kind, userId });
    const tell = async (count: number) => {
      for (let i = 0; i < count; i++) await addJobEvent(store, id, "info", "step", { step: i + 1 });
    };
    return { id, tell, queue, claim: () => queue.claim([kind], "elsewhere") };
  }

  /** What a connection hears of jobs. */
  async function listen(jobs: boolean) {
    const socket = new WebSocket(`${server.url.replace("http", "ws")}/api/chat/ws`, "kiln.chat.v1");
    const heard: JobUpdate[] = [];
    let isThere = false;
    socket.on("message", (data) => {
      const event = JSON.parse(String(data)) as ServerEvent;
      if (event.type === "job.update") heard.push(event);
      isThere ||= event.type === "pong";
    });
    await new Promise((resolve) => socket.on("open", resolve));
    const watch = (jobs: boolean) => socket.send(JSON.stringify({ type: "watch", jobs }));
    watch(jobs);
    socket.send(JSON.stringify({ type: "ping", t: 1 }));
    await heardOf(() => isThere).toBe(true);
    // Whoever joins has everybody told again.
    const events = (id: string): JobEvent[] => {
      const told = heard.flatMap(({ job, events }) => (job.id === id ? events : []));
      return [...new Map(told.map((event) => [event.seq, event])).values()];
    };
    return { heard, events, watch, socket };
  }

  it("is given page by page, each event once and in order", async () => {
    const { id, tell } = await told("local/paging");
    await tell(23);
    const at = `/api/jobs/${id}/events?user_id=paging`;
    const pages: number[][] = [];
    for (let after = 0; ; ) {
      const { events } = (await server.ask("GET", `${at}&limit=10&after=${after}`)).body;
      if (events.length === 0) break;
      pages.push(events.map(({ seq }: JobEvent) => seq));
      after = pages.at(-1)!.at(-1)!;
    }
    expect(pages.map(({ length }) => length)).toEqual([10, 10, 3]);
    expect(pages.flat()).toEqual(Array.from({ length: 23 }, (_, i) => i + 1));
    // What came since is the next page.
    await tell(1);
    expect((await server.ask("GET", `${at}&after=23`)).body.events).toMatchObject([
      { seq: 24, data: { step: 1 } },
    ]);
    for (const wrong of ["after=-1", "after=x", "limit=201", "limit=0"])
      expect((await server.ask("GET", `${at}&${wrong}`)).status).toBe(422);
  });

  it("comes by itself to those who watch, whoever works on it, and to nobody else", async () => {
    const { id, tell, queue, claim } = await told("local");
    const others = await told("local/ben");
    await tell(2);
    const [one, late, deaf] = [await listen(true), await listen(true), await listen(false)];
    // What there is at first, though nothing happens.
    await heardOf(() => [one, late].map(({ events }) => events(id).length)).toEqual([2, 2]);
    expect(one.heard[0]).toMatchObject({ job: { id, kind: "other of local", state: "queued" }, seq: 2 });
    await tell(3);
    await others.tell(1);
    await heardOf(() => [one, late].map(({ events }) => events(id).length)).toEqual([5, 5]);
    late.watch(false);
    const job = (await claim())!;
    await heardOf(() => one.heard.at(-1)?.job.state).toBe("running");
    await queue.renew(job, 0.5);
    await heardOf(() => one.heard.at(-1)?.job.progress).toBe(0.5);
    await tell(1);
    await queue.complete(job, null);
    await heardOf(() => one.heard.at(-1)?.job).toMatchObject({ state: "succeeded", progress: 1 });
    expect(one.events(id).map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6]);
    // One that ended before anybody looked is told of all the same.
    const quick = await told("local");
    await queue.cancel(quick.id);
    await heardOf(() => one.heard.at(-1)?.job).toMatchObject({ id: quick.id, state: "cancelled" });
    expect([late.events(id).length, deaf.heard.length]).toEqual([5, 0]);
    expect(new Set(one.heard.map(({ job: { id } }) => id))).toEqual(new Set([id, quick.id]));
    for (const { socket } of [one, late, deaf]) socket.terminate();
  });

  it("is told in its newest part alone where there is much: the rest is asked for", async () => {
    const { id, tell } = await told("local");
    await tell(130);
    const { heard, socket } = await listen(true);
    await heardOf(() => heard.length).toBe(1);
    const [{ seq, events }] = heard as [JobUpdate];
    expect([seq, events.length, events[0]!.seq, events.at(-1)!.seq]).toEqual([130, 100, 31, 130]);
    socket.terminate();
    await server.ask("POST", `/api/jobs/${id}/cancel`);
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

it("a log is read as it grows, each line once, from where the run goes on (property)", async () => {
  const file = path.join(folder, "log.jsonl");
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(), { minLength: 1 }),
      fc.nat(20),
      fc.array(fc.nat(40)),
      async (values, done, cuts) => {
        const whole = values.map((value, step) => `${JSON.stringify({ step: step + 1, value })}\n`).join("");
        rmSync(file, { force: true });
        const follower = new LogFollower(file, done);
        const read = [...(await follower.next())];
        writeFileSync(file, "");
        let at = 0;
        for (const cut of [...cuts, whole.length]) {
          appendFileSync(file, whole.slice(at, at + cut));
          at += cut;
          read.push(...(await follower.next()));
        }
        expect(read.map(({ value }) => value)).toEqual(values.slice(done));
      },
    ),
    { numRuns: 30 },
  );
});
