import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, describe, expect, it } from "vitest";
import { type ChatModel, type ChatOptions, ChatSession } from "../serve/app/repl/chat_session.ts";
import { ChatRepl } from "../serve/app/repl/repl.ts";
import { ChatTemplate, Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { readChatData } from "../train/data/index.ts";
import { lens, shown, terminal } from "./support/terminal.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-chat-"));
const place = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

const tokenizer = withChatTemplate(
  new Tokenizer(trainBpe(["hello"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] })),
);
const template = new ChatTemplate(tokenizer);
const never = () => new AbortController().signal;
const silent = () => {};

/** What a model read, as text. */
const read: string[] = [];

/** A model that repeats the last message, a word at a time; asked to count, it counts until it is stopped. */
function parrot({ context = 1000, name = "parrot" } = {}): ChatModel & { closed: boolean } {
  return {
    ...{ name, context, template, lens, closed: false },
    close() {
      this.closed = true;
    },
    writer: {
      async *stream(prompt, { max_tokens } = {}) {
        const text = tokenizer.decode(prompt as number[], { skipSpecialTokens: false });
        read.push(text);
        const last = /.*<\|im_start\|>user\n(.*?)<\|im_end\|>/s.exec(text)![1];
        if (last === "fail") throw new Error("the device is lost");
        const words = last === "count" ? ["1", " 2", " 3", " 4"] : last.split(/(?= )/);
        for (const [i, word] of words.entries()) {
          if (i === max_tokens) return "length";
          yield word;
          if (word === " 4") await new Promise(() => {}); // it never ends by itself
        }
        return "stop";
      },
    },
  };
}

const session = (options: Partial<ChatOptions> = {}, model = parrot()) =>
  new ChatSession(model, { max_tokens: 100, ...options });
const contents = ({ messages }: ChatSession) => messages.map(({ content }) => content);

/** Feeds lines as a pipe does. */
async function piped(chat: ChatSession, lines: readonly string[], json = false) {
  const [input, output, said] = [new PassThrough(), new PassThrough(), [] as string[]];
  const open = async (name: string) => {
    if (name === "missing") throw new Error("missing does not exist");
    return parrot({ name });
  };
  const say = (line: string) => void said.push(line);
  const done = new ChatRepl(chat, { open, json, say, input, output }).run();
  input.end(lines.map((line) => `${line}\n`).join(""));
  const code = await done;
  return { code, said, answers: String(output.read() ?? "") };
}

describe("a conversation", () => {
  it("sends all turns in the template, and streams", async () => {
    const chat = session();
    chat.system = "be kind";
    const pieces: string[] = [];
    await chat.ask("a b", (text) => pieces.push(text), never());
    expect(pieces).toEqual(["a", " b"]);
    await chat.ask("c", silent, never());
    expect(read.at(-1)).toBe(
      "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\na b<|im_end|>\n<|im_start|>assistant\na b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
    );
  });

  it("leaves out the fewest of the oldest turns, whole, and keeps them for itself", async () => {
    for (const context of [60, 140]) {
      const chat = session({ max_tokens: 10 }, parrot({ context }));
      for (const letter of "abcdef") {
        const { leftOut } = await chat.ask(letter, silent, never());
        const { ids } = await chat.prompt(chat.messages.slice(0, -1));
        const seen = [...read.at(-1)!.matchAll(/user\n(.)/g)].map(([, each]) => each);
        expect(seen).toEqual([..."abcdef".slice(0, "abcdef".indexOf(letter) + 1)].slice(leftOut));
        expect(ids.length).toBeLessThanOrEqual(context - 10);
        if (leftOut === 0) continue;
        const whole = chat.messages.slice(2 * (leftOut - 1), -1);
        const { ids: more } = await template.encode({ messages: whole }, { addGenerationPrompt: true });
        expect(more.length).toBeGreaterThan(context - 10);
      }
      expect(contents(chat)).toHaveLength(12);
    }
  });

  it("refuses a message that is longer than the context, and is as before", async () => {
    const chat = session({}, parrot({ context: 60 }));
    await chat.ask("a", silent, never());
    const before = structuredClone(chat.messages);
    await expect(chat.ask("x".repeat(60), silent, never())).rejects.toThrow(
      /^the message takes \d+ tokens with what surrounds it, and the model reads 60: shorten it/,
    );
    expect(chat.messages).toEqual(before);
  });

  it("keeps an answer that is cut off, with weight 0; before its first word it takes the message back", async () => {
    const chat = session();
    const stop = new AbortController();
    const answer = await chat.ask("count", (text) => text === " 4" && stop.abort(), stop.signal);
    expect(answer).toMatchObject({ content: "1 2 3 4", finish_reason: "interrupted" });
    expect(chat.messages.at(-1)).toEqual({ role: "assistant", content: "1 2 3 4", weight: 0 });
    expect((await chat.ask("a", silent, stop.signal)).content).toBe("");
    await expect(chat.ask("fail", silent, never())).rejects.toThrow("the device is lost");
    expect(contents(chat)).toEqual(["count", "1 2 3 4"]);
    chat.options.max_tokens = 2;
    expect(await chat.ask("a b c", silent, never())).toMatchObject({
      content: "a b",
      finish_reason: "length",
    });
    expect(chat.messages.at(-1)).toMatchObject({ weight: 0 });
  });

  it("draws each answer with a seed of its own", async () => {
    const seeds: unknown[] = [];
    const model = parrot();
    const { stream } = model.writer;
    model.writer.stream = (prompt, options) => {
      seeds.push(options?.seed);
      return stream(prompt, options);
    };
    const chat = session({ seed: 7 }, model);
    await chat.ask("a", silent, never());
    await chat.retry(silent, never());
    expect(seeds).toEqual([7n, 8n]);
  });
});

describe("from a pipe", () => {
  it("each line is a message, and the output holds the answers alone", async () => {
    const chat = session();
    expect(await piped(chat, ["one", "", "two \\", "three", "four"])).toEqual({
      code: 0,
      said: [],
      answers: "one\ntwo \nthree\nfour\n",
    });
    expect(contents(chat)[2]).toBe("two \nthree");
    const { answers } = await piped(session(), ["a"], true);
    expect(answers).toBe('{"content":"a","finish_reason":"stop"}\n');
  });

  it("an error is a line, the conversation goes on, and the exit code tells", async () => {
    const { code, said, answers } = await piped(session(), ["fail", "/udno", "/nonsense", "a"]);
    expect(said).toEqual([
      "kiln: the device is lost",
      "kiln: there is no /udno, did you mean /undo?; /help lists all",
      "kiln: there is no /nonsense; /help lists all",
    ]);
    expect([code, answers]).toEqual([1, "a\n"]);
  });

  it("says once how many turns the model no longer sees", async () => {
    const { said } = await piped(session({ max_tokens: 10 }, parrot({ context: 60 })), [
      ..."abc",
      "/retry",
      "/context",
    ]);
    expect(said).toEqual([
      "(no longer in the context: the oldest 1 turn; /save keeps them)",
      expect.stringMatching(/^1 of 3 turns: \d+ of 60 tokens, 10 kept for the answer$/),
    ]);
  });

  it("undo, retry, clear, system and model", async () => {
    const chat = session();
    const first = chat.model as ReturnType<typeof parrot>;
    await piped(chat, ["a", "b", "/undo", "/retry", "/system be brief", "/model missing"]);
    expect([contents(chat), chat.model]).toEqual([["a", "a"], first]);
    const { said } = await piped(chat, [
      "/model other",
      "/model",
      '/system ""',
      "/clear",
      "/undo",
      "/quit",
      "c",
    ]);
    expect(first.closed).toBe(true);
    expect(said).toEqual([
      "other, a context of 1,000 tokens",
      "other, a context of 1,000 tokens",
      "system: (nothing)",
      "a new conversation",
      "kiln: nothing was said yet; write a message first",
    ]);
    expect(chat.messages).toEqual([]);
  });

  it("explain says who wrote the answer where another model is asked about it", async () => {
    const chat = session();
    const { said } = await piped(chat, ["a", "/explain", "/model other", "/explain", "b", "/explain"]);
    expect(said).toEqual([
      "other, a context of 1,000 tokens",
      "(parrot wrote this answer; what follows is what other makes of it)",
    ]);
  });
});

describe("files", () => {
  it("what /save writes is what /load reads and kiln train sft learns", async () => {
    const chat = session({ max_tokens: 2 });
    chat.system = "be kind";
    const path = place("saved.jsonl");
    await piped(chat, ["a", "b c d", `/save ${path}`, "e", `/save ${path}`]);
    expect(JSON.parse(readFileSync(path, "utf8")).messages).toMatchObject([
      { role: "system", content: "be kind" },
      { content: "a" },
      { content: "a" },
      { content: "b c d" },
      { content: "b c", weight: 0 },
      { content: "e" },
      { content: "e" },
    ]);
    const { examples, supervised } = await readChatData([path], template, 512);
    expect([examples.length, supervised]).toEqual([1, 4]); // two letters and their turn ends
    const again = session();
    await piped(again, [`/load ${path}`]);
    expect(again.conversation).toEqual(chat.conversation);
  });

  it("/save overwrites nothing that it did not write, and takes no name that would be read as something else", async () => {
    writeFileSync(place("mine.jsonl"), "precious");
    const { said } = await piped(session(), [
      ...["/save x.jsonl", "a", "/save", `/save ${place("mine.jsonl")}`, `/save ${place("a.csv")}`],
    ]);
    expect(said).toEqual([
      expect.stringContaining("nothing to save"),
      expect.stringContaining("name a file"),
      expect.stringContaining("exists and was not saved in this session"),
      expect.stringContaining("give a name that ends in .jsonl"),
    ]);
    expect(readFileSync(place("mine.jsonl"), "utf8")).toBe("precious");
    expect(existsSync(place("a.csv"))).toBe(false);
  });

  it.each([
    ["alpaca.json", '[{"instruction":"x","output":"y"},{"instruction":"a","input":"","output":"b"}]', 2],
    ["sharegpt.jsonl", '{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}\n', 1],
    ["plain.txt", "User: a\nAssistant: b", 1],
  ])("/load reads %s", async (name, text, number) => {
    writeFileSync(place(name), text);
    const chat = session();
    await piped(chat, [`/load ${place(name)} ${number}`]);
    expect(contents(chat)).toEqual(["a", "b"]);
  });

  it("/load that fails leaves the conversation", async () => {
    writeFileSync(place("bad.json"), "{");
    writeFileSync(place("other.jsonl"), '{"question": 1}');
    const chat = session();
    const { said } = await piped(chat, [
      ...["a", `/load ${place("no.json")}`, `/load ${place("bad.json")}`, `/load ${place("other.jsonl")}`],
      `/load ${place("other.jsonl")} 3`,
    ]);
    expect(said).toEqual([
      expect.stringContaining("no.json does not exist"),
      expect.stringContaining("bad.json is neither JSON nor JSON Lines (line 1 is none)"),
      expect.stringContaining("other.jsonl: no chat format has the fields question"),
      expect.stringContaining("other.jsonl has 1 conversation, so there is no number 3"),
    ]);
    expect(contents(chat)).toEqual(["a", "a"]);
  });
});

describe("on a terminal", () => {
  it("Ctrl-C stops the answer and the second leaves; what is typed meanwhile waits", async () => {
    const chat = session();
    const { type, seen, done } = terminal(chat);
    type("count\r");
    await shown(seen, "1 2 3 4");
    type("later");
    type("\x03");
    await shown(seen, "(stopped)");
    expect(seen().slice(seen().indexOf("1 2 3 4"))).toMatch(/^1 2 3 4\n\(stopped\)\n[^\n]*later/);
    expect(contents(chat)).toEqual(["count", "1 2 3 4"]);
    type("\x03");
    expect(await done).toBe(130);
  });

  it("Ctrl-C at the prompt leaves the second time only, Ctrl-D at once", async () => {
    const first = terminal(session());
    first.type("\x03");
    await shown(first.seen, "(Ctrl-C once more leaves)");
    first.type("a\r");
    await shown(first.seen, "a\n"); // the answer: what is typed ends with \r\n
    first.type("\x03");
    await expect.poll(() => first.seen().split("once more").length).toBe(3);
    first.type("\x03");
    expect(await first.done).toBe(130);
    const second = terminal(session());
    second.type("\x04");
    expect(await second.done).toBe(0);
  });
});
