import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { createModel, saveModel, tinyllmConfig } from "../models/index.ts";
import type { Application } from "../serve/app/application.ts";
import { compare } from "../serve/app/chat/compare.ts";
import { readStore } from "../serve/app/collected.ts";
import { prefer } from "../serve/app/feedback.ts";
import type { ServerEvent } from "../serve/app/protocol.ts";
import type { OpenStore } from "../serve/store/index.ts";
import { Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { importConversations } from "../train/data/conversations/importer.ts";
import { ConversationLogger } from "../train/data/conversations/logger.ts";
import { recipe } from "../train/recipes/preference.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";
import { type Script, scripted } from "./support/scripted_answers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "kiln-feedback-"));
const address = `sqlite:${folder}/kiln.db`;
const log = path.join(folder, "conversations.jsonl");
let application: Application;
let source: Script;
let store: OpenStore;
const ada = "local/ada";
beforeAll(async () => {
  ({ application, source, store } = await scripted(path.join(folder, "kiln.db")));
  await application.users.ensure(ada);
  await application.users.ensure("local/ben");
});
afterAll(async () => {
  await application.close();
  rmSync(folder, { recursive: true, force: true });
});

const ended = async (messageId: string) =>
  (await application.conversing.follow(ada, messageId, 0, () => {})).ended;

async function ask(text: string, answer: string, more: object = {}) {
  source.says = [answer];
  const accepted = await application.conversing.send(ada, {
    ...{ conversation_id: null, text, model: "fake", consent: true },
    ...more,
  });
  await ended(accepted.message_id);
  return accepted;
}
async function again(messageId: string, answer: string) {
  source.says = [answer];
  const { message_id } = await application.conversing.regenerate(ada, messageId, {});
  await ended(message_id);
  return message_id;
}
const rate = (message_id: string, rating: -1 | 0 | 1, correction: string | null = null) =>
  application.chats(ada).rate({ message_id, rating, correction });

describe("what people prefer", () => {
  it("becomes pairs by corrections, votes and thumbs, once each, of conversations with consent", async () => {
    const first = await ask("What is the moon made of?", "It is made of green cheese.", {
      system: "Be brief.",
    });
    await rate(first.message_id, -1, "It is made of rock.");
    const { conversation_id } = first;
    const second = await ask("And the sun?", "It is made of fire.", { conversation_id });
    const better = await again(second.message_id, "It is made of hydrogen and helium.");
    await prefer(store, ada, {
      ...{ prompt_message_id: second.user_message_id, message_ids: [second.message_id, better] },
      ...{ outcome: "chosen", chosen_message_id: better, source: "regenerate" },
    });
    await rate(better, 1);
    await rate(second.message_id, -1);
    const secret = await ask("Where is the treasure?", "Under the old tree.", { consent: false });
    await rate(secret.message_id, -1, "zebra");
    const pairs = await readStore(address, "preferences");
    const system = { role: "system", content: "Be brief." };
    const user = (content: string) => ({ role: "user", content });
    const assistant = (content: string) => ({ role: "assistant", content });
    const by = { who: expect.stringMatching(/^u-[\da-f]{16}$/), when: expect.any(Number) };
    expect(pairs).toEqual([
      {
        prompt: [system, user("What is the moon made of?")],
        chosen: [assistant("It is made of rock.")],
        rejected: [assistant("It is made of green cheese.")],
        ...by,
      },
      {
        prompt: [
          ...[system, user("What is the moon made of?"), assistant("It is made of green cheese.")],
          user("And the sun?"),
        ],
        chosen: [assistant("It is made of hydrogen and helium.")],
        rejected: [assistant("It is made of fire.")],
        ...by,
      },
    ]);
  });

  it("is voted on among answers of one's own to one message, and again is another vote", async () => {
    const { user_message_id: prompt_message_id, message_id } = await ask("A joke?", "Knock knock.");
    const other = await again(message_id, "There is none.");
    const vote = (more: object, user = ada) =>
      prefer(store, user, {
        ...{ prompt_message_id, message_ids: [message_id, other], outcome: "tie", source: "regenerate" },
        ...more,
      });
    const rows = () =>
      store.all("SELECT chosen_message_id FROM preference WHERE prompt_message_id = ?", [prompt_message_id]);
    expect(await vote({ outcome: "chosen", chosen_message_id: other })).toEqual({
      models: { [message_id]: "fake", [other]: "fake" },
    });
    expect(await rows()).toEqual([{ chosen_message_id: other }]);
    await vote({ outcome: "both_bad" });
    expect(await rows()).toEqual([]);
    await expect(vote({ outcome: "chosen" })).rejects.toMatchObject({ status: 422 });
    await expect(vote({ chosen_message_id: other })).rejects.toMatchObject({ status: 422 });
    await expect(vote({ message_ids: [other, other] })).rejects.toMatchObject({ status: 422 });
    await expect(vote({ message_ids: [other, prompt_message_id] })).rejects.toMatchObject({ status: 404 });
    await expect(vote({}, "local/ben")).rejects.toMatchObject({ status: 404 });
  });

  it("of a blind comparison tells who was who after the vote, and never before", async () => {
    source.says = ["an answer"];
    const told: ServerEvent[] = [];
    const stop = application.hub.listen(ada, (event) => told.push(event));
    const orders = new Set<string>();
    let last!: Awaited<ReturnType<typeof compare>>;
    for (let i = 0; i < 12; i++) {
      last = await compare(application, ada, {
        models: ["fake", "other"],
        text: "Who are you?",
        blind: true,
      });
      for (const { message_id } of last.answers) await ended(message_id);
      const asked = source.started.slice(-2).map(({ request }) => request.model);
      orders.add(asked.join());
    }
    stop();
    expect(orders.size).toBe(2);
    expect(last.answers.map(({ model }) => model)).toEqual([null, null]);
    expect(JSON.stringify(told)).not.toMatch(/"(fake|other)"/);
    const chats = application.chats(ada);
    const models = async () => {
      const found = [];
      for (const { message_id } of last.answers) found.push((await chats.message(message_id)).model);
      return found;
    };
    expect(await models()).toEqual([null, null]);
    const { conversations } = await chats.list(50, null);
    expect(conversations.map(({ id }) => id)).not.toContain(last.conversation_id);
    const [winner] = last.answers;
    const { models: who } = await prefer(store, ada, {
      ...{ prompt_message_id: last.user_message_id, source: "arena", outcome: "chosen" },
      ...{
        message_ids: last.answers.map(({ message_id }) => message_id),
        chosen_message_id: winner!.message_id,
      },
    });
    expect(Object.values(who).sort()).toEqual(["fake", "other"]);
    expect(await models()).toEqual(last.answers.map(({ message_id }) => who[message_id]));
    await expect(compare(application, ada, { models: ["fake", "fake"], text: "x" })).rejects.toMatchObject({
      status: 422,
    });
  });
});

describe("the log of conversations", () => {
  it("holds what the switch is on for, as it now is, in the logger's form, and nothing else", async () => {
    const kept = await ask("How tall is a giraffe, about?", "About five metres tall.");
    await ask("What is my password?", "It is zebra-crossing.", { consent: false });
    await ask("And an elephant?", "About three metres.", { conversation_id: kept.conversation_id });
    const { message_id } = await ask("A mouse?", "Nine metres.", { conversation_id: kept.conversation_id });
    await rate(message_id, -1, "Nine centimetres.");
    const [off] = [await ask("One more?", "Yes.", { conversation_id: kept.conversation_id })];
    await application.chats(ada).patch(kept.conversation_id, { consent: false });
    await ask("And now?", "Not logged, since it was switched off.", {
      conversation_id: kept.conversation_id,
    });
    await expect.poll(() => readFileSync(log, "utf8")).toContain("One more?");
    const text = readFileSync(log, "utf8");
    expect(text).not.toMatch(/zebra|Not logged|local\/ada|treasure/);
    const { records, faults } = await importConversations([log]);
    expect(faults).toEqual([]);
    const own = records.filter(({ id }) => id === kept.conversation_id);
    expect(own).toHaveLength(1);
    expect(own[0]!.messages.map(({ content }) => content)).toEqual([
      ...[
        "How tall is a giraffe, about?",
        "About five metres tall.",
        "And an elephant?",
        "About three metres.",
      ],
      ...["A mouse?", "Nine metres.", "One more?", "Yes."],
    ]);
    expect(own[0]!.metadata).toMatchObject({ session_id: kept.conversation_id, model: "fake", rating: -1 });
    expect(off!.conversation_id).toBe(kept.conversation_id);
    // The logger itself goes on in the same file, with the same pseudonyms.
    const logger = new ConversationLogger(log);
    logger.log("By hand?", "Yes, by hand.", { user_id: ada });
    await logger.close();
    const users = (await importConversations([log])).records.map(({ metadata }) => metadata.user_id);
    expect(new Set(users).size).toBe(1);
    // Whose switch was turned off is not read from the store any more.
    const stored = await readStore(address, "conversations");
    expect(JSON.stringify(stored)).not.toContain("giraffe");
    expect(JSON.stringify(stored)).toContain("green cheese");
  });

  it("kiln data reads the store itself, and trains on what people prefer", async () => {
    const execute = promisify(execFile);
    const kiln = (...args: string[]) => execute(process.execPath, ["bin/kiln.mjs", ...args]);
    const out = path.join(folder, "exports");
    const { stdout } = await kiln("data", "import", address);
    const rows = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(rows.map(({ id }) => id)).toEqual(
      (await readStore(address, "conversations")).map((one) => "id" in one && one.id),
    );
    await kiln("data", "export", address, "--feedback", "dpo", "--out", out);
    const pairs = readFileSync(path.join(out, "preference.jsonl"), "utf8").trim().split("\n");
    expect(pairs.map((line) => JSON.parse(line))).toEqual(await readStore(address, "preferences"));
    expect(existsSync(path.join(out, "conversations.jsonl"))).toBe(false);
    // Two steps of training on them, from a model that has a template.
    await openDevice();
    const tokenizer = withChatTemplate(
      new Tokenizer(trainBpe(pairs, { vocab_size: 300, special_tokens: ["<|endoftext|>"] }), {
        tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" },
      }),
    );
    const config = tinyllmConfig({
      ...{ hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 512 },
      ...{ vocab_size: tokenizer.vocabSize, eos_token_id: tokenizer.eosId, bos_token_id: tokenizer.bosId },
    });
    const model = createModel(config).init(1);
    await saveModel(path.join(folder, "base"), model, tokenizer);
    const before = readFileSync(path.join(folder, "base/model.safetensors"));
    const settings = await loadSettings(
      recipe,
      null,
      parseOverrides([
        ...[`model.init_from=${path.join(folder, "base")}`, `data.path=${out}/preference.jsonl`],
        ...[`out_dir=${path.join(folder, "preferred")}`, "train.steps=2", "train.batch_size=1"],
        ...["train.sequence_length=512"],
      ]),
    );
    await run(recipe, { config: settings, makeSampler: () => async () => "", say: () => {} });
    const after = readFileSync(path.join(folder, "preferred/model/model.safetensors"));
    expect(after.equals(before)).toBe(false);
  });
});
