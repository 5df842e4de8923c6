import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { tensor } from "../core/tensor.ts";
import { openDevice } from "../kernels/index.ts";
import { loadAdapted } from "../models/formats/peft_directory.ts";
import {
  addAdapter,
  type CausalLM,
  createModel,
  loadModel,
  saveModel,
  tinyllmConfig,
  useAdapter,
} from "../models/index.ts";
import { withChat } from "../models/vocabulary.ts";
import { samplerOf } from "../serve/text/text_generator.ts";
import {
  CHATML,
  type ChatMessage,
  ChatTemplate,
  Tokenizer,
  trainBpe,
  withChatTemplate,
} from "../tokenizer/index.ts";
import { concludeAdapter, firstLogits } from "../train/adapters.ts";
import { previewChats } from "../train/data/chat_preview.ts";
import { chatBatch, packExamples, readChatData, readChats } from "../train/data/index.ts";
import { recipe } from "../train/recipes/sft.ts";
import { readMetrics } from "../train/report/metrics_log.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-sft-"));
const place = (name: string) => join(root, name);
afterAll(() => rmSync(root, { recursive: true }));

const base = new Tokenizer(
  trainBpe(["user assistant system hello what is the sea blue and deep"], {
    vocab_size: 280,
    special_tokens: ["<|endoftext|>"],
  }),
  { tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" } },
);
const tokenizer = withChatTemplate(base);
const template = new ChatTemplate(tokenizer);

function write(name: string, rows: readonly unknown[]): string {
  writeFileSync(
    place(name),
    rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n"),
  );
  return place(name);
}

async function collected<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const messages = [
  { role: "user", content: "hello" },
  { role: "assistant", content: "the sea" },
  { role: "user", content: "what" },
  { role: "assistant", content: "is blue" },
];

describe("conversations as rows", () => {
  it("learn what the assistant says and its turn-end tokens, of every format and file type", async () => {
    const files = [
      write("a.jsonl", [{ messages }]),
      write("b.json", ['[{"instruction":"hello","input":"","output":"the sea"}]']),
      write("c.csv", ["prompt,completion", 'hello,"the sea"']),
      write("d.txt", ["User: hello", "Assistant: the sea", "<|endoftext|>User: what", "Assistant: is blue"]),
    ];
    const { examples, supervised } = await readChatData(files, template, 64);
    const said = examples.map(({ tokens, targets }) => {
      expect(tokens.length).toBe(targets.length);
      targets.forEach((id, i) => {
        if (id !== -100 && i + 1 < tokens.length) expect(id).toBe(tokens[i + 1]);
      });
      return tokenizer.decode(
        targets.filter((id) => id !== -100),
        { skipSpecialTokens: false },
      );
    });
    const [sea, blue] = ["the sea<|im_end|>", "is blue<|im_end|>"];
    expect(said).toEqual([sea + blue, sea, sea, sea, blue]);
    const ids = await tokenizer.encode(said.join(""), { addSpecialTokens: false });
    expect(supervised).toBe(ids.length);
  });

  it("keep special tokens that are spelled in a message as text", async () => {
    const file = write("spelled.jsonl", [{ prompt: "hello", completion: "the <|im_end|> sea" }]);
    const [chat] = await collected(readChats([file], template));
    expect(chat!.ids.filter((id) => id === tokenizer.tokenToId("<|im_end|>"))).toHaveLength(2);
  });

  it("count those that are too long, and refuse what teaches nothing by its file and row", async () => {
    const long = write("long.jsonl", [
      { messages: [messages[0], { ...messages[1], content: "sea ".repeat(99) }] },
      { messages },
    ]);
    expect(await readChatData([long], template, 64)).toMatchObject({ tooLong: 1, examples: { length: 1 } });
    const [asked, answered] = messages;
    const empty = [
      [{ ...asked, content: null }, answered],
      [asked, { ...answered, content: " " }],
      [asked, { ...answered, content: null }, asked, answered],
    ];
    const call = { type: "function", function: { name: "tide", arguments: {} } };
    const calling = [asked, { role: "assistant", content: null, tool_calls: [call] }, answered];
    const silent = write(
      "silent.jsonl",
      [...empty, messages, calling].map((turns) => ({ messages: turns })),
    );
    expect(await readChatData([silent], template, 256)).toMatchObject({ empty: 3, examples: { length: 2 } });
    const mute = write("mute.jsonl", [{ messages }, { messages: messages.slice(0, 1) }]);
    await expect(readChatData([mute], template, 64)).rejects.toThrow(
      /mute.jsonl row 2 .*nothing to learn from/,
    );
    const endless = new ChatTemplate(tokenizer, CHATML.replace("{{ '<|im_end|>' }}{% endgen", "{% endgen"));
    await expect(readChatData([long], endless, 64)).rejects.toThrow(/long.jsonl row 1 .*never learn to stop/);
  });

  it("are packed whole: each once, alone in its segment, with positions from 0", () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(lengths, (sizes) => {
        const examples = sizes.map((size, i) => ({
          tokens: new Int32Array(size).fill(i + 1),
          targets: new Int32Array(size).fill(i + 1),
        }));
        const rows = packExamples(examples, 12);
        expect(new Set(rows.flat())).toEqual(new Set(examples));
        expect(rows.flat()).toHaveLength(examples.length);
        const { tokens, targets, positions, segments, supervised } = chatBatch(rows, 12);
        expect(supervised).toBe(sizes.reduce((sum, size) => sum + size, 0));
        tokens.forEach((token, i) => {
          expect(targets[i]).toBe(token === 0 ? -100 : token);
          const follows = i % 12 > 0 && tokens[i - 1] === token;
          expect(positions[i]).toBe(follows ? positions[i - 1] + 1 : 0);
          if (i % 12 > 0) expect(segments[i] === segments[i - 1]).toBe(follows);
        });
      }),
    );
  });

  it("fill the fullest row first, as in TRL's documentation", () => {
    const examples = [2, 3, 1].map((size) => ({
      tokens: new Int32Array(size),
      targets: new Int32Array(size),
    }));
    const rows = packExamples(examples, 4).map((row) =>
      row.map((example) => examples.indexOf(example as (typeof examples)[0])),
    );
    expect(rows).toEqual([[1, 2], [0]]);
  });

  it("are shown with what is learned marked, and counted", async () => {
    const file = write("shown.jsonl", [
      { messages },
      { messages: [messages[0], { ...messages[1], content: "sea ".repeat(50) }] },
      { messages: [messages[0], { ...messages[1], content: "" }] },
    ]);
    const text = await previewChats([file], tokenizer, { longest: 64, colours: false });
    expect(text).toContain(
      "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n[[the sea<|im_end|>]]\n<|im_start|>user\n",
    );
    expect(text).toMatch(
      /conversations +3\n +longer than 64, +1 \(left out\)\n +with an empty turn +1 \(left out\)\nsupervised tokens +\d+\nrows of 64 +1\n/,
    );
    expect(await previewChats([file], tokenizer, { longest: 64, colours: true })).toContain(
      "\x1b[32mthe sea<|im_end|>\x1b[0m",
    );
  });
});

describe("kiln train sft", () => {
  const questions = ["hello", "what is the sea", "is the sea blue", "what", "blue and deep", "the sea"];
  const fixed = questions.map((prompt) => ({ prompt, completion: "the sea is deep" }));
  let packedRows = 0;
  beforeAll(async () => {
    await openDevice();
    const sizes = { hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2 };
    const config = tinyllmConfig({
      ...sizes,
      vocab_size: base.vocabSize,
      eos_token_id: base.eosId,
      max_position_embeddings: 128,
    });
    await saveModel(place("base"), createModel(config).init(1), base);
    const file = write("chats.jsonl", fixed);
    packedRows = packExamples((await readChatData([file], template, 128)).examples, 128).length;
    expect(packedRows).toBeLessThan(fixed.length);
  });

  async function train(name: string, ...settings: string[]) {
    const lines: string[] = [];
    const config = await loadSettings(recipe, null, parseOverrides([`out_dir=${place(name)}`, ...settings]));
    const result = await run(recipe, { config, makeSampler: samplerOf, say: (line) => lines.push(line) });
    const file = (kind: string) => place(`${name}/model/${kind}model.safetensors`);
    const weights = readFileSync(file(existsSync(file("")) ? "" : "adapter_")).toString("base64");
    const losses = readMetrics(place(`${name}/log.jsonl`)).flatMap(({ loss }) => loss ?? []);
    return { ...result, weights, losses, text: lines.join("\n") };
  }
  const toy = [
    `model.init_from=${place("base")}`,
    `data.path=${place("chats.jsonl")}`,
    "data.validation_fraction=0",
    "train.sequence_length=128",
    "train.batch_size=1",
    "train.warmup_steps=0",
    "train.schedule=constant",
    "train.learning_rate=0.02",
    "sample.prompts=['hello']",
    "sample.temperature=0",
    "sample.max_tokens=20",
  ];

  it("teaches a reply after which the model stops by itself, and saves the template with it", async () => {
    const { samples, text, losses } = await train("reply", ...toy, "train.steps=60");
    expect(samples.after).toEqual(["User: hello\nAssistant: the sea is deep"]);
    expect(samples.before).not.toEqual(samples.after);
    expect(losses.at(-1)).toBeLessThan(0.05);
    expect(text).toContain("it gets ChatML, whose 2 special tokens are added to the vocabulary");
    const { model, tokenizer: saved } = await loadModel(place("reply/model"));
    expect(model.shape.vocab_size).toBe(base.vocabSize + 2);
    expect(saved.chatTemplate).toBe(CHATML);
    expect(readFileSync(place("reply/model/chat_template.jinja"), "utf8")).toBe(CHATML);
    const stop = saved.tokenToId("<|im_end|>")!;
    expect(saved.eosIds).toEqual([stop, base.eosId]);
  });

  const quiet = ["sample.prompts=[]", "train.steps=2"];

  it("takes accumulated and unpacked batches for the whole batch that they are, and resumes to the bit", async () => {
    const whole = await train("whole", ...toy, ...quiet, "train.batch_size=6", "data.packing=false");
    const parts = ["train.batch_size=3", "train.gradient_accumulation_steps=2", "data.packing=false"];
    const accumulated = await train("accumulated", ...toy, ...quiet, ...parts);
    const packed = await train("packed", ...toy, ...quiet, `train.batch_size=${packedRows}`);
    expect(whole.losses).toHaveLength(2);
    await train("parts", ...toy, ...quiet, "train.batch_size=6", "data.packing=false", "train.steps=1");
    expect((await train("parts", "resume=true", "train.steps=2")).weights).toBe(whole.weights);
    whole.losses.forEach((loss, i) => {
      expect(accumulated.losses[i]).toBeCloseTo(loss as number, 5);
      expect(packed.losses[i]).toBeCloseTo(loss as number, 5);
    });
  });

  const lora = ["adapter.kind=lora", "adapter.rank=2", "train.steps=4", "sample.prompts=[]"];

  it("trains an adapter: resumed and with gradient checkpointing to the bit, saved as PEFT has it", async () => {
    const whole = await train("lora", ...toy, ...lora);
    await train("lora-parts", ...toy, ...lora, "train.steps=2");
    expect(readdirSync(place("lora-parts/checkpoints/step-000002"))).toContain("adapter_model.safetensors");
    const parts = await train("lora-parts", "resume=true", "train.steps=4");
    expect(parts.losses).toEqual(whole.losses);
    expect(parts.weights).toBe(whole.weights);
    const checkpointed = await train("lora-again", ...toy, ...lora, "train.gradient_checkpointing=true");
    expect(checkpointed.weights).toBe(whole.weights);
    const config = JSON.parse(readFileSync(place("lora/model/adapter_config.json"), "utf8"));
    expect(config).toMatchObject({
      ...{ peft_type: "LORA", r: 2, lora_alpha: 16, target_modules: ["q_proj", "v_proj"] },
      ...{ modules_to_save: ["embed_tokens"], base_model_name_or_path: place("base") },
    });
    expect(readFileSync(place("lora/model/chat_template.jinja"), "utf8")).toBe(CHATML);
  });

  it("writes the model with the adapter merged: the same logits as with it applied, within 1e-5", async () => {
    const { model: merged } = await loadModel(place("lora/merged"));
    const { model: applied, tokenizer: own } = await loadAdapted(place("base"), place("lora/model"));
    expect(own.chatTemplate).toBe(CHATML); // as the adapter has it; the base has none
    const { ids } = await template.encode({ messages: messages as ChatMessage[] });
    const logits = async (model: CausalLM) => {
      const row = (values: number[]) => tensor(values, [1, values.length], "i32");
      const context = { positions: row(ids.map((_, i) => i)), segments: row(ids.map(() => 0)) };
      return (await scope(() =>
        noGrad(() => model.logits(model.hidden(row(ids), context))),
      ).data()) as Float32Array;
    };
    const distance = (a: Float32Array, b: Float32Array) =>
      Math.max(...a.map((value, i) => Math.abs(value - b[i])));
    const wanted = await logits(merged);
    expect(distance(await logits(applied), wanted)).toBeLessThan(1e-5);
    // A base that gets its rows from elsewhere keeps the adapter too.
    const bare = join(place("lora"), "bare");
    cpSync(place("lora/model"), bare, { recursive: true });
    for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
      rmSync(join(bare, name));
    const prepared = await loadAdapted(place("base"), bare, "f32", withChat);
    expect(prepared.note).toMatch(/it gets ChatML, whose 2 special tokens/);
    expect(distance(await logits(prepared.model), wanted)).toBeLessThan(1e-5);
    useAdapter(applied, null);
    expect(distance(await logits(applied), wanted)).toBeGreaterThan(1e-2);
  });

  it("trains an adapter of a model in NF4, resumed to the bit, and merges it into the values of that", async () => {
    const settings = [...toy, ...lora, "adapter.kind=qlora", "train.learning_rate=0.001"];
    const whole = await train("qlora", ...settings);
    await train("qlora-parts", ...settings, "train.steps=2");
    const parts = await train("qlora-parts", "resume=true", "train.steps=4");
    expect(parts.weights).toBe(whole.weights);
    const [, largest, drift] = /logits up to (\S+) move by (\S+)\)/.exec(whole.text)!;
    expect(Number(drift)).toBeLessThan(1e-5 * Math.max(1, Number(largest)));
    const { model: applied } = await loadModel(place("qlora/merged"));
    const weight = (model: CausalLM) =>
      model.namedParameters().get("model.layers.0.mlp.up_proj.weight")!.data();
    const distinct = new Set(await weight(applied)).size;
    expect(distinct).toBeLessThan(new Set(await weight((await loadModel(place("base"))).model)).size / 2);
  });

  it("says what is missing", async () => {
    const read = (...settings: string[]) => loadSettings(recipe, null, parseOverrides(settings));
    await expect(read("data.path=x")).rejects.toThrow(/model.init_from: give the model to start from/);
    await expect(read("model.init_from=/x")).rejects.toThrow(
      /data.path: give files of conversations: --data FILE/,
    );
  });

  it("says what to raise where no conversation fits a row", async () => {
    await expect(train("rows", ...toy, ...quiet, "train.sequence_length=4")).rejects.toThrow(
      /no conversation is left: \d+ conversations longer than .* 4, .*; raise --sequence-length/,
    );
  });

  it("refuses a tokenizer with ids that the embedding lacks", async () => {
    cpSync(place("base"), place("short"), { recursive: true });
    const config = {
      ...JSON.parse(readFileSync(place("base/config.json"), "utf8")),
      vocab_size: base.vocabSize - 1,
    };
    const { eos_token_id: _e, ...sizes } = config;
    await saveModel(place("short"), createModel(tinyllmConfig({ ...sizes, eos_token_id: 1 })).init(1), base);
    await expect(train("short-run", ...toy, ...quiet, `model.init_from=${place("short")}`)).rejects.toThrow(
      new RegExp(
        `has ${base.vocabSize} tokens, its config says vocab_size ${base.vocabSize - 1}.*own tokenizer`,
      ),
    );
  });

  it("refuses an adapter that has not changed", async () => {
    const { model } = await loadModel(place("base"));
    addAdapter(model, { r: 2 });
    useAdapter(model, "default");
    const logits = firstLogits(chatBatch([[]], 16));
    await expect(
      concludeAdapter(model, base, {
        outDir: place("unchanged"),
        logits,
        reopen: async () => model,
        say: () => {},
      }),
    ).rejects.toThrow(/layers.0.self_attn.q_proj.lora_B.weight is still zero/);
  });
});
