import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KilnError } from "../core/errors.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel, parseModelConfig } from "../models/architectures.ts";
import type { Encoder } from "../models/encoder.ts";
import { fromPretrained, loadModel, readTensors } from "../models/formats/hf_directory.ts";
import type { Task } from "../models/labels.ts";
import { type Answer, type LabelScore, pipeline } from "../models/pipeline.ts";
import { textGeneration } from "../models/text_generation.ts";
import { ChatTemplate, Tokenizer, withChatTemplate } from "../tokenizer/index.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

const shared = new URL("../../shared/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-pipeline-"));
afterAll(() => rmSync(folder, { recursive: true }));
beforeAll(async () => {
  await openDevice();
});

const tokenizer = wordPieces();

describe("a directory", () => {
  const models: [string, () => Encoder][] = [
    ["BertForSequenceClassification", () => randomBert("ForSequenceClassification", labels)],
    ["BertForMaskedLM", () => randomBert("ForMaskedLM")],
    [
      "DebertaV2ForSequenceClassification",
      () =>
        randomBert("", {
          ...{ ...labels, model_type: "deberta-v2", architectures: ["DebertaV2ForSequenceClassification"] },
          ...{
            relative_attention: true,
            pos_att_type: "p2c|c2p",
            norm_rel_ebd: "layer_norm",
            conv_kernel_size: 3,
          },
        }),
    ],
    [
      "DistilBertForTokenClassification",
      () =>
        createModel(
          parseModelConfig({
            model_type: "distilbert",
            vocab_size: 21,
            dim: 16,
            n_layers: 1,
            n_heads: 2,
            hidden_dim: 24,
            architectures: ["DistilBertForTokenClassification"],
            ...labels,
          }),
        ).init(4) as Encoder,
    ],
  ];
  it.each(models)(
    "holds a %s that comes back with the same values, labels and config",
    async (name, make) => {
      const model = make();
      const path = join(folder, name);
      await model.savePretrained(path, tokenizer);
      const file = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
      expect(file.architectures).toEqual([name]);
      const loaded = await fromPretrained(path);
      expect(loaded.model.config).toEqual(model.config);
      const [before, after] = [
        await readTensors(model.namedParameters()),
        await readTensors(loaded.model.namedParameters()),
      ];
      expect([...after.keys()]).toEqual([...before.keys()]);
      for (const [key, { bytes }] of before)
        expect(Buffer.compare(after.get(key)!.bytes, bytes), key).toBe(0);
      expect(await loaded.tokenizer.encode("the cats")).toEqual(await tokenizer.encode("the cats"));
      await expect(loadModel(path)).rejects.toThrow(
        new RegExp(`is a ${name}, which reads text and writes none`),
      );
    },
  );

  it("gets a new head by its seed, keeps the one it has for the same labels, and refuses others' sizes", async () => {
    const path = join(folder, "pretrained");
    await randomBert("ForMaskedLM").savePretrained(path, tokenizer);
    const head = { task: "text-classification" as Task, labels: ["no", "yes", "so"], seed: 7 };
    const { model } = await fromPretrained(path, { head });
    expect(model.toHfConfig()).toMatchObject({
      architectures: ["BertForSequenceClassification"],
      label2id: { no: 0, yes: 1, so: 2 },
    });
    const [fresh, again] = [model, (await fromPretrained(path, { head })).model].map((m) =>
      m.namedParameters(),
    );
    const values = async (map: typeof fresh, name: string) => [...(await map.get(name)!.data())];
    expect(await values(fresh, "classifier.weight")).toEqual(await values(again, "classifier.weight"));
    expect(new Set(await values(fresh, "classifier.weight")).size).toBeGreaterThan(40);
    const body = "bert.encoder.layer.1.output.dense.weight";
    const origin = (await fromPretrained(path)).model.namedParameters();
    expect(await values(fresh, body)).toEqual(await values(origin, body));

    const tuned = join(folder, "tuned");
    await model.savePretrained(tuned, tokenizer);
    const kept = await fromPretrained(tuned, { head: { ...head, seed: 8 } });
    expect(await values(kept.model.namedParameters(), "classifier.weight")).toEqual(
      await values(fresh, "classifier.weight"),
    );
    const other = await fromPretrained(tuned, { head: { ...head, labels: ["yes", "no"], seed: 8 } });
    expect((other.model as Encoder).labels).toEqual(["yes", "no"]);
    // A config that names more labels than the file has weights for.
    const file = JSON.parse(readFileSync(join(tuned, "config.json"), "utf8"));
    const more = { ...file, id2label: { ...file.id2label, 3: "x" }, label2id: { ...file.label2id, x: 3 } };
    writeFileSync(join(tuned, "config.json"), JSON.stringify(more));
    await expect(fromPretrained(tuned)).rejects.toThrow(
      /classifier\.weight is \[3, 16\], the config says \[4, 16\]/,
    );
  });
});

describe("the tokenizer", () => {
  it("says which text, type and place each token has, also behind characters of two code units", async () => {
    const [one, pair] = await tokenizer.encodeTexts(["😀 Cats?", ["a 😀 cat", "the mat"]]);
    expect(one.ids.map((id) => tokenizer.idToToken(id))).toEqual([
      "[CLS]",
      "[UNK]",
      "cat",
      "##s",
      "?",
      "[SEP]",
    ]);
    expect(one.sources).toEqual([null, 0, 0, 0, 0, null]);
    expect(one.offsets.map(([start, end]) => "😀 Cats?".slice(start, end))).toEqual([
      "",
      "😀",
      "Cat",
      "s",
      "?",
      "",
    ]);
    expect(pair.typeIds).toEqual([0, 0, 0, 0, 0, 1, 1, 1]);
    expect(pair.sources).toEqual([null, 0, 0, 0, null, 1, 1, null]);
    expect(pair.offsets.at(-2)).toEqual([4, 7]);
  });

  it.skipIf(!existsSync(join(shared, "data/tokenizers/bert")))(
    "has BERT's own ids (skipped: no ../shared/data)",
    async () => {
      const path = join(shared, "data/tokenizers/bert");
      const bert = new Tokenizer(
        JSON.parse(gunzipSync(readFileSync(join(path, "tokenizer.json.gz"))).toString()),
      );
      expect(bert.maskId).toBe(103);
      const wanted = JSON.parse(readFileSync(join(path, "bert_uncased_encoded.json"), "utf8"));
      const [{ ids, offsets }] = await bert.encodeTexts([wanted.text]);
      expect(ids).toEqual(wanted.token_ids);
      expect(ids.slice(1, -1).map((id) => bert.idToToken(id))).toEqual(wanted.bpe_tokens);
      const parts = ids.map((id, i) => [bert.idToToken(id), wanted.text.slice(...offsets[i])]);
      expect(parts).toContainEqual(["kilometres", "kilomètres"]);
    },
  );
});

describe("pipelines", () => {
  it("text-classification gives the likeliest label, as many as asked for, or independent probabilities", async () => {
    const model = randomBert("ForSequenceClassification", labels);
    const classify = await pipeline("text-classification", { model, tokenizer });
    const [one] = (await classify(texts[0])) as LabelScore[];
    const all = (await classify(texts[0], { top_k: null })) as LabelScore[];
    expect(all.map(({ score }) => score).reduce((a, b) => a + b)).toBeCloseTo(1, 10);
    expect(all.map(({ label }) => label).sort()).toEqual(["O", "bad", "good"]);
    expect(all[0]).toEqual(one);
    expect(await classify(texts)).toHaveLength(texts.length);
    expect(((await classify(texts, { top_k: 2 })) as LabelScore[][]).map((each) => each.length)).toEqual([
      2, 2, 2, 2, 2,
    ]);
    const several = randomBert("ForSequenceClassification", {
      ...labels,
      problem_type: "multi_label_classification",
    });
    const apart = await pipeline("text-classification", { model: several, tokenizer });
    const total = ((await apart(texts[0], { top_k: null })) as LabelScore[]).reduce(
      (sum, { score }) => sum + score,
      0,
    );
    expect(Math.abs(total - 1)).toBeGreaterThan(1e-3);
  });

  it("give a text the same bits alone and among others", async () => {
    const classify = await pipeline("text-classification", {
      model: randomBert("ForSequenceClassification", labels),
      tokenizer,
    });
    const embed = await pipeline("feature-extraction", { model: randomBert("Model"), tokenizer });
    const many = [...texts, ...texts.map((text) => `${text} ${texts.join(" ")}`), ...texts];
    const together = await classify(many, { top_k: null });
    const vectors = await embed(many, { pooling: "mean", normalize: true });
    expect(vectors.dims).toEqual([15, 16]);
    for (const [i, text] of many.entries()) {
      expect(await classify(text, { top_k: null })).toEqual(together[i]);
      const alone = await embed(text, { pooling: "mean", normalize: true });
      expect(alone.data).toEqual(vectors.data.slice(i * 16, (i + 1) * 16));
    }
  });

  it("token-classification gives tokens with their words and places, without those of no interest", async () => {
    const tag = await pipeline("token-classification", {
      model: randomBert("ForTokenClassification", labels),
      tokenizer,
    });
    const all = await tag(texts[2], { ignore_labels: [] });
    expect(all.map(({ start, end }) => texts[2].slice(start, end))).toEqual([
      "the",
      "cat",
      "s",
      "sat",
      "on",
      "the",
      "mat",
    ]);
    expect(all.map(({ index }) => index)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(all[0]).toMatchObject({ word: "the", entity: expect.stringMatching(/^(O|bad|good)$/) });
    const some = await tag([texts[2], texts[0]]);
    expect(some[0]).toEqual(all.filter(({ entity }) => entity !== "O"));
    expect(some).toHaveLength(2);
  });

  it("fill-mask fills the mask, and says where there is none", async () => {
    const fill = await pipeline("fill-mask", { model: randomBert("ForMaskedLM"), tokenizer });
    const [first, ...rest] = await fill("the [MASK] sat on the mat.", { top_k: 21 });
    expect([first, ...rest].reduce((sum, { score }) => sum + score, 0)).toBeCloseTo(1, 10);
    expect(first.score).toBeGreaterThanOrEqual(rest[0].score);
    const cat = rest.concat(first).find(({ token_str }) => token_str === "cat")!;
    expect(cat).toMatchObject({ token: tokenizer.tokenToId("cat"), sequence: "the cat sat on the mat." });
    await expect(fill(["a [MASK]", "no mask"])).rejects.toThrow(/text 2 has no \[MASK\] to fill/);
  });

  it("question-answering finds passages of the context alone", async () => {
    const ask = await pipeline("question-answering", {
      model: randomBert("ForQuestionAnswering"),
      tokenizer,
    });
    const context = "The 😀 cat sat on the mat.";
    const best = (await ask("who sat?", context)) as Answer;
    expect(context.slice(best.start, best.end)).toBe(best.answer);
    const answers = (await ask("who sat?", context, { top_k: 100 })) as Answer[];
    expect(answers).toHaveLength((8 * 9) / 2);
    expect(answers[0]).toEqual(best);
    const total = answers.reduce((sum, { score }) => sum + score, 0);
    expect(total).toBeGreaterThan(0);
    expect(total).toBeLessThan(1);
  });

  it("question-answering reads a long context in windows that share tokens", async () => {
    const model = randomBert("ForQuestionAnswering");
    const ask = await pipeline("question-answering", { model, tokenizer });
    // [CLS] who sat? [SEP] … [SEP] leaves 34 of the 40 tokens: with 10 shared, windows begin at 0, 24 and 48.
    const words = Array.from({ length: 70 }, (_, i) => ["cat", "film", "mat", "good", "bad"][(i * i) % 5]);
    const parts = [0, 24, 48].map((from) => words.slice(from, from + 34));
    const answers = (await ask("who sat?", words.join(" "), { top_k: 3, doc_stride: 10 })) as Answer[];
    const alone = await Promise.all(
      parts.map(async (part, w) => {
        const from = words.slice(0, [0, 24, 48][w]).join(" ").length + (w > 0 ? 1 : 0);
        const found = (await ask("who sat?", part.join(" "), { top_k: 3 })) as Answer[];
        return found.map(({ start, end, ...rest }) => ({ ...rest, start: start + from, end: end + from }));
      }),
    );
    expect(answers[0]).toEqual(alone.flat().sort((a, b) => b.score - a.score)[0]);
    expect(new Set(answers.map(({ start, end }) => `${start} ${end}`)).size).toBe(3);
    for (const each of answers) expect(alone.flat()).toContainEqual(each);
    await expect(ask("cat ".repeat(39), "mat")).rejects.toThrow("the question fills the 40 tokens");
  });

  it("cut long texts where somebody is told, and keep the tokens that end them", async () => {
    const told: number[][] = [];
    const classify = await pipeline(
      "text-classification",
      { model: randomBert("ForSequenceClassification", labels), tokenizer },
      { onTruncated: (...counts) => void told.push(counts) },
    );
    const found = await classify([texts[0], "cat ".repeat(60), "cat ".repeat(38)], { top_k: null });
    expect(told).toEqual([[62, 40]]);
    expect(found[1]).toEqual(found[2]);
  });

  it("text-generation gives each input with its continuations, by a masked language model here", async () => {
    const model = randomBert("ForMaskedLM");
    const write = await pipeline("text-generation", { model, tokenizer });
    const [{ generated_text: whole }] = await write("the cat", { max_new_tokens: 4 });
    expect(whole).toMatch(/^the cat( \S+|\w+|\.|\?)+$/);
    const short = await write(["the cat"], { max_new_tokens: 4, return_full_text: false });
    expect(short).toEqual([[{ generated_text: whole.slice("the cat".length) }]]);
    const how = { max_new_tokens: 3, do_sample: true, num_return_sequences: 2, seed: 1 };
    expect(await write("a", how)).toEqual(await write("a", how));
    expect(await write("a", how)).toHaveLength(2);
    await expect(write("a", { top_k: 3 })).rejects.toThrow("top_k changes nothing without do_sample: true");
    await expect(write([{ role: "user", content: "a" }])).rejects.toThrow("no chat template");
    const other = randomBert("ForSequenceClassification", labels);
    await expect(pipeline("text-generation", { model: other, tokenizer })).rejects.toThrow(
      "guesses no masked tokens",
    );
  });

  it("text-generation continues conversations by the chat template, whatever writes", async () => {
    const asked: unknown[] = [];
    const generate = async (...args: [readonly (string | readonly number[])[], object?]) => {
      asked.push(args);
      return args[0].map(() => [{ text: "hello", token_ids: [1], finish_reason: "stop" as const }]);
    };
    const chatting = withChatTemplate(tokenizer);
    const write = textGeneration({ generate, close() {} }, chatting);
    const chat = [{ role: "user" as const, content: "the cat" }];
    const reply = { role: "assistant", content: "hello" };
    expect(await write(chat, { max_new_tokens: 9 })).toEqual([{ generated_text: [...chat, reply] }]);
    expect(await write([chat, chat])).toHaveLength(2);
    const { ids } = await new ChatTemplate(chatting).encode(
      { messages: chat },
      { addGenerationPrompt: true },
    );
    expect(asked[0]).toEqual([[ids], { max_tokens: 9, n: 1, temperature: 0 }]);
    expect(asked[1]).toEqual([[ids, ids], { max_tokens: 256, n: 1, temperature: 0 }]);
  });

  it("feature-extraction gives tokens, or one vector a text", async () => {
    const embed = await pipeline("feature-extraction", { model: randomBert("ForMaskedLM"), tokenizer });
    const tokens = await embed(["good", "the cats"]);
    expect(tokens.dims).toEqual([2, 5, 16]);
    expect([...tokens.data.slice(3 * 16, 5 * 16)]).toEqual(new Array(32).fill(0));
    const first = await embed("good", { pooling: "cls" });
    expect(first.data).toEqual(tokens.data.slice(0, 16));
    const mean = await embed("good", { pooling: "mean" });
    for (let i = 0; i < 16; i++) {
      const sum = tokens.data[i] + tokens.data[16 + i] + tokens.data[32 + i];
      expect(mean.data[i]).toBeCloseTo(sum / 3, 5);
    }
  });

  it("refuse another head's task and a text that is too long", async () => {
    const model = randomBert("ForMaskedLM");
    await expect(pipeline("text-classification", { model, tokenizer })).rejects.toThrow(
      /a BertForMaskedLM has no head for text-classification/,
    );
    const fill = await pipeline("fill-mask", { model, tokenizer });
    await expect(fill(`[MASK] ${"cat ".repeat(40)}`)).rejects.toThrow(KilnError);
    await expect(fill(`[MASK] ${"cat ".repeat(40)}`)).rejects.toThrow(
      /text 1 has 43 tokens, the model reads 40/,
    );
  });
});
