import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { ProgressLine } from "../core/platform/progress_line.ts";
import { openDevice } from "../kernels/index.ts";
import {
  createModel,
  type Generated,
  type GenerationOptions,
  saveModel,
  tinyllmConfig,
} from "../models/index.ts";
import { ChatTemplate, Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { evaluateChat } from "../train/eval/chat.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-eval-chat-"));
afterAll(() => rmSync(folder, { recursive: true }));

const tokenizer = withChatTemplate(
  new Tokenizer(trainBpe(["hello"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] }), {
    tokenizer_config: { eos_token: "<|endoftext|>" },
  }),
);
const template = new ChatTemplate(tokenizer);
const [turnEnd, begin, end] = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"].map(
  (name) => tokenizer.tokenToId(name)!,
);
const idsOf = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
const model = { name: "tuned", path: join(folder, "model") };

/** A model that finds all 259 tokens equally likely. */
beforeAll(async () => {
  await openDevice();
  const sizes = {
    hidden_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    max_position_embeddings: 128,
  };
  const uniform = createModel(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(0);
  for (const parameter of uniform.parameters()) parameter.write(new Float32Array(parameter.size));
  await saveModel(model.path, uniform, tokenizer);
});

const chat = (question: string, reply: string, first: object[] = []) =>
  JSON.stringify({
    messages: [...first, { role: "user", content: question }, { role: "assistant", content: reply }],
  });
const file = (name: string, lines: string[]) => {
  writeFileSync(join(folder, name), lines.join("\n"));
  return join(folder, name);
};

/** What a model says to each question; ids go as they are, with `stop` where the last ends generation. */
type Script = Record<string, [text: string, ...ids: number[]]>;

function generatorOf(script: Script, asked: string[] = [], given: object[] = []) {
  return {
    async generate(prompts: readonly (string | readonly number[])[], options?: GenerationOptions) {
      given.push({ ...options });
      return Promise.all(
        prompts.map(async (prompt): Promise<Generated[]> => {
          const shown = tokenizer.decode(prompt as number[], { skipSpecialTokens: false });
          asked.push(shown);
          const [text, ...ids] = script[/.*user\n(.*?)<\|im_end/s.exec(shown)![1]];
          const token_ids = [...(await idsOf(text)), ...ids];
          return [
            { text, token_ids, finish_reason: [turnEnd, end].includes(ids.at(-1)!) ? "stop" : "length" },
          ];
        }),
      );
    },
    close() {},
  };
}

const flags = { maxTokens: 40, temperature: 0, seed: 0 };
const progress = new ProgressLine({ stream: { write: () => {} } });
const right: Script = { a: ["one two", turnEnd], b: ["one two one two one two", turnEnd] };
const wrong: Script = {
  c: ["goes on"],
  d: ["another end", end],
  e: ["", turnEnd],
  f: ["hm", begin, turnEnd],
  g: ["fine\nuser\nwhat?", turnEnd],
  h: ["a user\nand an assistant", turnEnd],
};
const lines = [..."abcdefgh"].map((question) => chat(question, "ok"));

it("counts answers that end by themselves, in the template, with something in them", async () => {
  const asked: string[] = [];
  const given: object[] = [];
  const data = [file("all.jsonl", lines)];
  const makeGenerator = () => generatorOf({ ...right, ...wrong }, asked, given);
  const { values, tables, notes } = await evaluateChat(
    model,
    null,
    { ...flags, data },
    { makeGenerator, progress },
  );
  expect(values).toMatchObject({
    answers: 8,
    format_rate: 3 / 8, // a, b, h
    stopped_rate: 7 / 8, // all but c
    turn_end_rate: 6 / 8, // all but c and d
    clean_rate: 6 / 8, // all but f and g
    non_empty_rate: 7 / 8,
    left_out: {},
    examples: [{ asked: "a", text: "one two" }, { asked: "b" }, { asked: "c" }],
  });
  const lengths = await Promise.all(
    Object.values({ ...right, ...wrong }).map(async ([text, ...ids]) => {
      const said = [turnEnd, end].includes(ids.at(-1)!) ? ids.length - 1 : ids.length;
      return (await idsOf(text)).length + said;
    }),
  );
  expect(values.mean_tokens).toBe(lengths.reduce((sum, length) => sum + length, 0) / 8);
  // b repeats its one four-gram of three, h has one of its own, and no other has four words.
  expect(values.repetition_4).toBeCloseTo((1 / 3 + 0) / 2);
  expect(asked[0]).toBe("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
  expect(given[0]).toEqual({ max_tokens: 40, temperature: 0, seed: 0 });
  expect(tables[0].rows[0]).toEqual([
    "format_rate",
    3 / 8,
    [expect.closeTo(0.1368, 4), expect.closeTo(0.6943, 4)],
  ]);
  expect(notes).toContain("Asked: a Answered: one two");
});

it("asks for the last reply that is learned, after all before it, and scores that without its end", async () => {
  const asked: string[] = [];
  const earlier = [
    { role: "system", content: "s" },
    { role: "user", content: "x" },
    { role: "assistant", content: "y" },
  ];
  const data = [
    file("some.jsonl", [
      chat("a", "twelve bytes", earlier),
      JSON.stringify({ messages: [...earlier, { role: "user", content: "z" }] }),
      chat("b", "x".repeat(200)),
      JSON.stringify({ messages: [{ role: "assistant", content: "hello" }] }),
      chat("c", "beyond the limit"),
    ]),
  ];
  const script: Script = { a: ["yes", turnEnd], x: ["yes", turnEnd] };
  const makeGenerator = () => generatorOf(script, asked);
  const { values } = await evaluateChat(
    model,
    null,
    { ...flags, data, limit: 4 },
    { makeGenerator, progress },
  );
  const before = await template.encode(
    { messages: earlier.slice(0, 2) as never },
    { addGenerationPrompt: true },
  );
  const whole = `${before.text}y<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n`;
  expect(asked).toEqual([whole, before.text]);
  const tokens = (await idsOf("twelve bytes")).length + (await idsOf("y")).length;
  expect(values.reply_perplexity).toBeCloseTo(tokenizer.vocabSize, 2);
  expect(values.reply_bits_per_byte).toBeCloseTo((tokens * Math.log2(tokenizer.vocabSize)) / 13, 5);
  expect(values.left_out).toEqual({
    "conversations longer than the model's context": 1,
    "conversations that begin with their only answer": 1,
  });
  const none = { ...flags, data: [file("none.jsonl", [chat("b", "x".repeat(200))])] };
  await expect(evaluateChat(model, null, none, { makeGenerator, progress })).rejects.toThrow(
    "no conversation that tuned can be asked",
  );
});

it("tests the difference from the model before on the same conversations", async () => {
  const data = [file("pair.jsonl", lines)];
  const better = Object.fromEntries([..."abcdefgh"].map((name) => [name, ["good", turnEnd]])) as Script;
  const scripts = [better, { ...right, ...wrong }];
  const makeGenerator = () => generatorOf(scripts.shift()!);
  const base = { ...model, name: "base" };
  const { values, tables } = await evaluateChat(model, base, { ...flags, data }, { makeGenerator, progress });
  expect(values).toMatchObject({ format_rate: 1, before: { model: "base", format_rate: 3 / 8 } });
  const [format, ...others] = values.tests as {
    metric: string;
    mcnemar: object | null;
    difference: number;
  }[];
  expect(format).toMatchObject({ items: 8, a: 3 / 8, b: 1, difference: 5 / 8 });
  // Five conversations of which only the tuned model holds the format: 2 / 2^5.
  expect(format.mcnemar).toMatchObject({ onlyA: 0, onlyB: 5, exact: expect.closeTo(1 / 16, 10) });
  expect(others.at(-1)).toMatchObject({ metric: "reply_bits_per_byte", difference: 0, mcnemar: null });
  const row = tables[0].rows.find(([metric]) => metric === "format_rate")!;
  expect(row.slice(1, 4)).toEqual([3 / 8, 1, 5 / 8]);
});
