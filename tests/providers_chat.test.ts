import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { Application } from "../serve/app/application.ts";
import { Budgets } from "../serve/app/budgets.ts";
import { compare } from "../serve/app/chat/compare.ts";
import { type AnswerEvent, isEnd } from "../serve/app/chat/generation.ts";
import type { ChatDone, ChatNotice } from "../serve/app/protocol.ts";
import { Answering } from "../serve/app/providers/answering.ts";
import type { ProvidersConfig } from "../serve/app/providers/config.ts";
import type { LocalTools } from "../serve/app/providers/local_tools.ts";
import { costOf } from "../serve/app/providers/prices.ts";
import { Upstream } from "../serve/app/providers/upstream.ts";
import { recordUsage, usageReport } from "../serve/app/usage.ts";
import { type OpenStore, openBlobs, openStore } from "../serve/store/index.ts";
import { addDocument } from "./support/added_document.ts";
import { cutAfter, eventsOf, FaultProvider, says, status, VirtualClock } from "./support/fault_provider.ts";
import { Script } from "./support/scripted_answers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-upstreams-"));
const ada = "local/ada";
let provider: FaultProvider;
let spare: FaultProvider;
beforeAll(async () => {
  [provider, spare] = await Promise.all([FaultProvider.start(), FaultProvider.start()]);
});
afterAll(() => {
  provider.close();
  spare.close();
  rmSync(folder, { recursive: true, force: true });
});

const price = { valid_from: "1970-01-01", input: 150_000, cached_input: 75_000, output: 600_000 };
const model = { task: "chat" as const, context_length: 1000, fallback: [] as string[], prices: [price] };
const tools: LocalTools = {
  measure: async (text) => text.split(" ").length,
  score: async () => null,
  classify: async (_, text) => (text.includes("spam") ? "spam" : "ham"),
};

let application: Application;
let local: Script;
let clock: VirtualClock;
let store: OpenStore;
let next = 0;

/** An application over two providers and two scripted models, `fake` and `other`. */
async function open(more: Partial<ProvidersConfig> = {}) {
  const cloud = provider.settings({
    models: { far: { ...model, fallback: ["near", "fake"] }, unpriced: { ...model, prices: [] } },
  });
  const config: ProvidersConfig = {
    providers: { cloud, spare: spare.settings({ models: { near: model } }) },
    ...{ ensembles: {}, classifiers: {}, routes: {}, budgets: {} },
    ...more,
  };
  clock = new VirtualClock();
  local = new Script();
  const upstreams = new Map(
    Object.entries(config.providers).map(([name, settings]) => [
      name,
      new Upstream(name, settings, "sk-canary", { clock }),
    ]),
  );
  store = await openStore(`sqlite:${path.join(folder, `${next++}.db`)}`);
  const source = new Answering({ local, tools, config, upstreams, clock });
  application = await Application.open({
    store,
    source,
    mode: "single",
    times: { flushMs: 5 },
    budgets: config.budgets,
    blobs: await openBlobs(`fs:${path.join(folder, "blobs")}`),
  });
  await application.users.ensure(ada);
}
beforeEach(() => {
  provider.seen.length = 0;
  spare.seen.length = 0;
});
afterEach(() => application.close());

const send = (text: string, name = "far", more: object = {}) =>
  application.conversing.send(ada, { conversation_id: null, text, model: name, ...more });

/** All events of an answer. */
async function events(messageId: string): Promise<AnswerEvent[]> {
  const heard: AnswerEvent[] = [];
  await (await application.conversing.follow(ada, messageId, 0, (event) => heard.push(event))).ended;
  return heard;
}

async function say(text: string, name = "far", more: object = {}) {
  const accepted = await send(text, name, more);
  const heard = await events(accepted.message_id);
  const notices = heard.flatMap((event) => (event.type === "chat.notice" ? [event.notice] : []));
  const row = await application.chats(ada).message(accepted.message_id);
  return { accepted, heard, notices, row, end: heard.at(-1)! as ChatDone };
}

const usage = async () => (await usageReport(store, { from: 0, to: 1e6, userId: ada })).rows;

describe("a provider's model in a conversation", () => {
  it("answers like one of ours, says who it was, and what that cost to the micro-dollar", async () => {
    await open();
    provider.answers = [says("Hel", "lo!")];
    const { heard, row, end } = await say("Hi");
    expect(
      heard.filter(({ type }) => type === "chat.delta").map((event) => "text" in event && event.text),
    ).toEqual(["Hel", "lo!"]);
    // 7 * 0.15 + 4 * 0.075 + 3 * 0.6 = 3.15
    expect(end).toMatchObject({
      type: "chat.done",
      model: "far",
      provider: "cloud",
      cost_microusd: 3,
      finish_reason: "stop",
    });
    expect(row).toMatchObject({
      ...{ content: "Hello!", status: "complete", model: "far", provider: "cloud", cost_microusd: 3 },
      usage: { prompt_tokens: 11, completion_tokens: 3, cached_tokens: 4, estimated: false },
    });
    expect(await usage()).toMatchObject([
      { model: "far", requests: 1, prompt_tokens: 11, completion_tokens: 3, cost_microusd: 3 },
    ]);
  });

  it("what it does not count is counted here and marked; without a price the cost is not known", async () => {
    await open();
    provider.answers = [(response) => response.end(eventsOf(["one ", "two ", "three"], { usage: null }))];
    const { row } = await say("a b c", "unpriced");
    expect(row).toMatchObject({
      cost_microusd: null,
      usage: { prompt_tokens: 7, completion_tokens: 3, estimated: true },
    });
    expect(await usage()).toMatchObject([
      { model: "unpriced", cost_microusd: 0, unknown_price: 1, estimated: 1 },
    ]);
  });

  it("retries are told, numbered like all events", async () => {
    await open();
    provider.answers = [status(429), status(429), says("yes")];
    const accepted = await send("Hi");
    const heard = await events(accepted.message_id);
    expect(heard.map((event) => (event.type === "chat.notice" ? event.notice : event.type))).toEqual([
      { kind: "retry", provider: "cloud", attempt: 1, wait_ms: 250 },
      { kind: "retry", provider: "cloud", attempt: 2, wait_ms: 500 },
      ...["chat.delta", "chat.done"],
    ]);
    expect(heard.map(({ seq }) => seq)).toEqual([1, 2, 3, 4]);
  });

  it("where it cannot, the next of its chain answers, which the row says", async () => {
    await open();
    provider.answers = [status(401)];
    spare.answers = [says("from the spare")];
    const { row, notices, end } = await say("Hi");
    expect(notices).toEqual([
      { kind: "fallback", from: "far", to: "near", reason: "cloud does not accept its key (401)" },
    ]);
    const told = [row.model, row.provider, row.content, end.model, end.provider];
    expect(told).toEqual(["near", "spare", "from the spare", "near", "spare"]);
    expect((await usage()).map((one) => [one.model, one.requests])).toEqual([["near", 1]]);
    spare.answers = [status(400)];
    local.says = ["from here"];
    const second = await say("Hi");
    expect(second.notices.map((notice) => notice.kind)).toEqual(["fallback", "fallback"]);
    expect([second.row.model, second.row.provider, second.row.cost_microusd]).toEqual(["fake", "local", 0]);
    const kinds = await store.all<{ model: string; data: string }>(
      "SELECT model, data FROM event WHERE kind = 'fallback' ORDER BY id",
    );
    expect(kinds.map(({ model: from, data }) => [from, JSON.parse(data).to])).toEqual([
      ...[
        ["far", "near"],
        ["far", "near"],
        ["near", "fake"],
      ],
    ]);
  });

  it("broken off in its middle it is interrupted, and continued by the fallback, with what both cost", async () => {
    await open();
    const stream = eventsOf(["Once ", "upon ", "a time"]);
    provider.answers = [cutAfter(stream, stream.indexOf("a time") - 20), status(500)];
    const { accepted, row, end, heard } = await say("Tell");
    expect(end).toMatchObject({ type: "chat.error", code: "interrupted", retryable: true });
    expect(heard.filter(isEnd)).toHaveLength(1);
    expect(row).toMatchObject({
      status: "interrupted",
      content: "Once upon ",
      model: "far",
      error: { code: "interrupted" },
    });
    expect(row.usage).toMatchObject({ completion_tokens: 3, estimated: true });
    expect(row.cost_microusd).toBe(costOf(price, row.usage!));
    spare.answers = [says("a time.")];
    await application.conversing.continue(ada, accepted.message_id);
    const rest = await events(accepted.message_id);
    expect(rest.some((event) => event.type === "chat.notice" && event.notice.kind === "fallback")).toBe(true);
    const whole = await application.chats(ada).message(accepted.message_id);
    expect(whole).toMatchObject({
      status: "complete",
      content: "Once upon a time.",
      model: "near",
      provider: "spare",
      error: null,
    });
    // It was asked to go on with the answer.
    const { messages } = spare.seen[0]!.body as { messages: { role: string; content: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
    expect(messages[1]!.content).toBe("Once upon ");
    const rows = await usage();
    expect(rows.map((one) => one.model)).toEqual(["far", "near"]);
    expect(whole.cost_microusd).toBe(rows.reduce((sum, one) => sum + one.cost_microusd, 0));
  });

  it("stops within its stream: the connection closes, and what came is kept and counted", async () => {
    await open();
    let closed = false;
    provider.answers = [
      (response) => {
        response.on("close", () => {
          closed = true;
        });
        response.write(`${eventsOf(["begun "]).split("\n\n")[0]}\n\n`);
      },
    ];
    const { message_id } = await send("Hi");
    const heard: AnswerEvent[] = [];
    const following = await application.conversing.follow(ada, message_id, 0, (event) => heard.push(event));
    await expect.poll(() => heard.length).toBe(1);
    await application.conversing.stop(ada, message_id);
    await following.ended;
    await expect.poll(() => closed).toBe(true);
    const row = await application.chats(ada).message(message_id);
    expect(row).toMatchObject({
      status: "stopped",
      content: "begun ",
      provider: "cloud",
      usage: { estimated: true },
    });
    expect((await usage())[0]).toMatchObject({ model: "far", requests: 1, estimated: 1 });
  });

  it("a client that comes back hears the last notice again, and no other", async () => {
    await open();
    provider.answers = [
      status(503),
      (response) => void response.write(`${eventsOf(["a"]).split("\n\n")[0]}\n\n`),
    ];
    const { message_id } = await send("Hi");
    const first: AnswerEvent[] = [];
    const following = await application.conversing.follow(ada, message_id, 0, (event) => first.push(event));
    await expect.poll(() => first.length).toBe(2);
    const heard: Record<number, string[]> = {};
    for (const after of [0, 1, 2]) {
      heard[after] = [];
      (
        await application.conversing.follow(ada, message_id, after, ({ type }) => heard[after]!.push(type))
      ).unfollow();
    }
    expect(heard).toEqual({ 0: ["chat.notice", "chat.delta"], 1: ["chat.delta"], 2: [] });
    await application.conversing.stop(ada, message_id);
    await following.ended;
    expect((first[0] as ChatNotice).notice.kind).toBe("retry");
  });

  it("compared blindly, nothing tells who it is: no notice, provider, price or word of a failure", async () => {
    await open();
    provider.answers = [status(401)];
    spare.answers = [status(429), says("an answer")];
    local.says = ["one more"];
    const told: unknown[] = [];
    application.hub.listen(ada, (event) => told.push(event));
    const models = ["far", "other", "unpriced"];
    const { answers } = await compare(application, ada, { models, text: "Hi", blind: true });
    for (const { message_id } of answers) {
      told.push(...(await events(message_id)), ...(await events(message_id))); // as it is written, and from its row
      told.push(await application.chats(ada).message(message_id));
    }
    expect(told.length).toBeGreaterThan(9);
    expect(JSON.stringify(told)).not.toMatch(
      /cloud|spare|far|near|unpriced|fake|other|upstream|cost_microusd":\d/,
    );
    expect(JSON.stringify(told)).toContain("this answer failed");
  });

  it("is listed with its provider, whose key nobody is told", async () => {
    await open();
    const listed = application.source.listed!();
    expect(
      listed.map(({ name, provider: by, chat, context_length }) => [name, by, chat, context_length]),
    ).toEqual([
      ...[
        ["far", "cloud", true, 1000],
        ["unpriced", "cloud", true, 1000],
        ["near", "spare", true, 1000],
      ],
    ]);
    const [cloud] = application.source.providers!(true);
    expect(cloud).toMatchObject({
      name: "cloud",
      dialect: "openai",
      models: ["far", "unpriced"],
      circuit: "closed",
    });
    expect(application.source.providers!(false)[0]!.base_url).toBe(null);
    expect(JSON.stringify([application.source.providers!(true), listed])).not.toContain("canary");
  });
});

describe("budgets", () => {
  it("are by user and day, in money for what costs some, and say when there is more", async () => {
    await open({ budgets: { microusd_per_user_day: 3 } });
    provider.answers = [says("Hel", "lo!")];
    local.says = ["free"];
    expect((await say("Hi")).row.cost_microusd).toBe(3);
    await expect(send("Hi")).rejects.toMatchObject({ status: 429, code: "budget_exceeded" });
    const midnight = new Date((Math.floor(Date.now() / 86_400_000) + 1) * 86_400_000).toISOString();
    await expect(send("Hi")).rejects.toThrow(midnight);
    expect((await say("Hi", "fake")).row.content).toBe("free");
    await application.users.ensure("local/ben");
    await application.conversing.send("local/ben", { conversation_id: null, text: "Hi", model: "far" });
    await expect.poll(() => provider.seen.length).toBe(2);
  });

  it("in tokens they hold for every model; a day later there is more", async () => {
    await open({ budgets: { tokens_per_user_day: 8 } });
    local.says = ["a"];
    await say("Hi", "fake"); // 7 and 1 tokens
    await expect(send("Hi", "other")).rejects.toMatchObject({ code: "budget_exceeded" });
    const tomorrow = new Budgets(store, { tokens_per_user_day: 8 }, () => Date.now() + 86_400_000);
    await tomorrow.check(ada, false);
  });
});

describe("usage", () => {
  it("of 1,000 random calls is the exact sum of what each cost", async () => {
    await open();
    let state = 17;
    const draw = (below: number) => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return state % below;
    };
    let [sum, unknown] = [0n, 0];
    await store.transaction(async (tx) => {
      for (let i = 0; i < 1000; i++) {
        const rates = {
          valid_from: "1970-01-01",
          input: draw(9e6),
          cached_input: draw(9e6),
          output: draw(9e7),
        };
        const prompt_tokens = draw(100_000);
        const used = {
          prompt_tokens,
          completion_tokens: draw(5000),
          cached_tokens: draw(prompt_tokens + 1),
          estimated: false,
        };
        const cost_microusd = costOf(draw(20) === 0 ? null : rates, used);
        if (cost_microusd === null) unknown++;
        else sum += BigInt(cost_microusd);
        const at = Date.UTC(2026, 0, 1 + draw(5));
        await recordUsage(tx, { at, userId: ada, model: `m${draw(4)}`, ...used, cost_microusd });
      }
    });
    const rows = await usage();
    expect(rows.reduce((total, row) => total + BigInt(row.cost_microusd), 0n)).toBe(sum);
    expect(rows.reduce((total, row) => total + row.requests, 0)).toBe(1000);
    expect(rows.reduce((total, row) => total + row.unknown_price, 0)).toBe(unknown);
  });
});

describe("ensembles and routes", () => {
  /** Scripted answers to the local models, in the order in which they are asked. */
  async function answer(...texts: { text: string; logprobs?: number[] }[]) {
    for (const [i, { text, logprobs }] of texts.entries()) {
      const answering = await local.next(i + 1);
      answering.say(text, logprobs);
      answering.end();
    }
  }

  it("the answer that is most like the others is given, and says whom it was chosen from", async () => {
    await open({ ensembles: { best: { members: ["fake", "near"], choose: "mbr" } } });
    spare.answers = [says("a report of the stock market")];
    const asking = say("Hi", "best", { params: { seed: 5 } });
    await answer({ text: "the cat sat on the mat" }, { text: "the cat sat on a mat" });
    const { row, notices, end } = await asking;
    expect(row.content).toBe("the cat sat on the mat");
    expect(notices).toEqual([{ kind: "voted", models: ["fake", "near", "fake"], method: "mbr" }]);
    expect([end.model, end.provider, end.cost_microusd]).toEqual(["best", "local", 3]);
    expect(local.started.map(({ request }) => request.params.seed)).toEqual([5, 7]);
    expect((await usage()).map(({ model: name, requests }) => [name, requests])).toEqual([
      ["fake", 2],
      ["near", 1],
    ]);
  });

  it("one that fails is left out; when all do, the answer fails", async () => {
    await open({ ensembles: { best: { members: ["near", "unpriced"], n: 2, choose: "vote" } } });
    spare.answers = [status(400)];
    provider.answers = [says("The answer is 42")];
    const { row, notices } = await say("Hi", "best");
    expect([row.content, notices.at(-1)]).toEqual([
      "The answer is 42",
      { kind: "voted", models: ["unpriced"], method: "vote" },
    ]);
    provider.answers = [status(400)];
    expect((await say("Hi", "best")).end).toMatchObject({ type: "chat.error", code: "upstream_refused" });
  });

  it("a route lets a model that is sure answer, and asks the next where it is not", async () => {
    await open({ routes: { auto: { chain: ["fake", "near"], tau: 0.5, rules: [] } } });
    spare.answers = [says("surely")];
    let asking = say("Hi", "auto");
    await answer({ text: "maybe ", logprobs: Array(24).fill(Math.log(0.9)) });
    const sure = await asking;
    expect([sure.row.content, sure.row.model, sure.notices]).toEqual(["maybe ", "fake", []]);
    expect(local.started[0]!.request.scores).toBe(true);
    asking = say("Hi", "auto");
    const second = await local.next(2);
    second.say("hm ", Array(23).fill(Math.log(0.4)));
    expect(second.stopped).toBe(0);
    second.say("well", [Math.log(0.4)]);
    expect(second.stopped).toBe(1); // it need not be written to its end
    const { row, notices, end } = await asking;
    expect([row.content, row.model, row.provider, end.model]).toEqual(["surely", "near", "spare", "near"]);
    expect(notices).toEqual([
      { kind: "routed", from: "fake", to: "near", reason: "0.40 sure, 0.5 is wanted" },
    ]);
    // A short one is judged by what there is, and one without log probabilities is let through.
    asking = say("Hi", "auto");
    const third = await local.next(3);
    third.say("no", [Math.log(0.3)]);
    third.end();
    expect((await asking).row.content).toBe("surely");
    asking = say("Hi", "auto");
    const fourth = await local.next(4);
    fourth.say("no numbers");
    fourth.end();
    expect((await asking).row.content).toBe("no numbers");
  });

  it("rules come first: the language, code, and what a classifier says", async () => {
    const rules = [
      { to: "near", label: { classifier: "spam", is: "spam" } },
      { to: "near", language: "deu" },
      { to: "unpriced", contains_code: true },
    ];
    await open({ routes: { auto: { chain: ["fake"], tau: 0.5, rules } } });
    spare.answers = [says("near")];
    provider.answers = [says("far")];
    local.says = ["fake"];
    const reasons = async (text: string) => {
      const { row, notices } = await say(text, "auto");
      return [row.model, ...notices.map((notice) => "reason" in notice && notice.reason)];
    };
    expect(await reasons("this is spam")).toEqual(["near", "spam says spam"]);
    expect(await reasons("Wie wird das Wetter morgen in der Hauptstadt?")).toEqual(["near", "language deu"]);
    expect(await reasons("Why does this fail?\n```\nx = 1\n```")).toEqual(["unpriced", "code"]);
    expect(await reasons("What will the weather be like tomorrow?")).toEqual(["fake"]);
  });

  it("a question that documents have an answer to goes where a rule says, by its own words", async () => {
    const rules = [{ to: "unpriced", needs_documents: true, language: "eng" }];
    await open({ routes: { auto: { chain: ["fake"], tau: 0.5, rules } } });
    await addDocument(
      application,
      ada,
      "hours.txt",
      "The shop opens at nine on weekdays and at ten on Saturdays.",
    );
    provider.answers = [says("At nine [1].")];
    local.says = ["fake"];
    const { row, notices } = await say("When does the shop open on weekdays?", "auto");
    expect(notices).toEqual([
      { kind: "routed", from: "auto", to: "unpriced", reason: "documents, language eng" },
    ]);
    expect([row.model, row.citations?.[0]?.name]).toEqual(["unpriced", "hours.txt"]);
    expect((await say("Who painted the ceiling?", "auto")).row.model).toBe("fake");
  });

  it("names that stand for nothing, or for two things, are refused at the start", async () => {
    await open();
    const wrong = (more: Partial<ProvidersConfig>) => open(more);
    await application.close();
    await expect(wrong({ ensembles: { best: { members: ["fak"], choose: "mbr" } } })).rejects.toThrow(
      "best names the model fak, which is not there",
    );
    await expect(wrong({ routes: { fake: { chain: ["other"], tau: 0, rules: [] } } })).rejects.toThrow(
      "two models would be called fake",
    );
    await open();
  });
});
