import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice, openReference } from "../kernels/index.ts";
import { createModel, decoderConfig, parseModelConfig, readModelConfig } from "../models/architectures.ts";
import { BertEncoder } from "../models/bert.ts";
import type { CausalLM } from "../models/decoder.ts";
import type { Encoder, EncoderBatch } from "../models/encoder.ts";
import type { EncoderConfig } from "../models/encoder_config.ts";
import { loadWeights, readTensors } from "../models/formats/hf_directory.ts";
import { type HostTensor, hostTensor, readModelWeights } from "../models/formats/safetensors.ts";
import { type EncodedText, packTexts, uploadRows } from "../models/text_rows.ts";
import { normalized, pool } from "../nn/index.ts";

const golden = new URL("./fixtures/golden/", import.meta.url).pathname;
const data = new URL("../../shared/data/", import.meta.url).pathname;

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterEach(() => setDevice(gpu));

const sizes = { vocab_size: 40, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32 };
const small = { ...sizes, hidden_size: 16, intermediate_size: 24, initializer_range: 0.3 };
const distil = { model_type: "distilbert", vocab_size: 40, dim: 16, n_layers: 2, n_heads: 2, hidden_dim: 24 };
/** DeBERTa with everything that it can have. */
const deberta = {
  ...{
    ...small,
    model_type: "deberta-v2",
    type_vocab_size: 2,
    relative_attention: true,
    pos_att_type: "p2c|c2p",
  },
  ...{
    position_buckets: 4,
    norm_rel_ebd: "layer_norm",
    embedding_size: 12,
    conv_kernel_size: 3,
    conv_groups: 2,
  },
};
const config = (value: object) => parseModelConfig(value, "m/config.json") as EncoderConfig;
const bert = (head: string, more: object = {}) =>
  config({ model_type: "bert", ...small, architectures: [`Bert${head}`], ...more });

async function values(make: () => Tensor): Promise<Float32Array> {
  const made = scope(() => noGrad(make));
  const read = Float32Array.from(await made.data());
  dispose(made);
  return read;
}

const farthest = (got: ArrayLike<number>, want: ArrayLike<number>) => {
  expect(got.length).toBe(want.length);
  return Array.from(want).reduce((most, v, i) => Math.max(most, Math.abs(got[i] - v)), 0);
};

it("has transformers' hidden states, logits, losses and gradients (BERT, DeBERTa)", async () => {
  const lines: string[] = [];
  const options = { write: (line: string) => void lines.push(line), filter: "bert" };
  expect(await verify(join(golden, "models"), options), lines.join("\n")).toMatchObject({
    passed: 24,
    failed: 0,
    skipped: 0,
  });
});

it.skipIf(!existsSync(join(data, "models/tiny_bert")))(
  "DialoGPT and TinyBERT are GPT-2 and BERT (skipped: no ../shared/data)",
  async () => {
    const path = join(data, "models/tiny_bert");
    const model = createModel(await readModelConfig(path)) as Encoder;
    expect(model).toBeInstanceOf(BertEncoder);
    loadWeights(model, await readModelWeights(path));
    const texts = JSON.parse(readFileSync(join(data, "reference/tiny_bert_reference.json"), "utf8"));
    expect(texts).toHaveLength(3);
    for (const { ids, last_hidden_state, mean_pooled } of texts) {
      const rows = packTexts(model, [{ ids }], ids.length);
      const mean = () => {
        const hidden = model.hidden(uploadRows(rows, model));
        return pool(hidden, tensor(ids.fill(1), [1, ids.length], "bool"), "mean");
      };
      const states = await values(() => model.hidden(uploadRows(rows, model)));
      expect(farthest(states, last_hidden_state.flat())).toBeLessThan(1e-5);
      expect(farthest(await values(mean), mean_pooled)).toBeLessThan(1e-5);
    }
    // DialoGPT's folder holds a GPT2LMHeadModel, some of its copies a GPT2Model without its prefix.
    const chat = join(data, "models/tiny_gpt2");
    const decoder: CausalLM = createModel(decoderConfig(await readModelConfig(chat), chat));
    expect(decoder.toHfConfig().architectures).toEqual(["GPT2LMHeadModel"]);
    loadWeights(decoder, await readModelWeights(chat));
  },
);

describe("the config of an encoder", () => {
  it("keeps labels in their order, under both keys, through a round trip", () => {
    const id2label = { 0: "zebra", 1: "apple", 2: "10" };
    const read = bert("ForSequenceClassification", { id2label, problem_type: "multi_label_classification" });
    const model = createModel(read) as Encoder;
    expect(model.labels).toEqual(["zebra", "apple", "10"]);
    const written = model.toHfConfig();
    expect(written).toMatchObject({ id2label, label2id: { zebra: 0, apple: 1, 10: 2 }, model_type: "bert" });
    expect(written.problem_type).toBe("multi_label_classification");
    expect(parseModelConfig(JSON.parse(JSON.stringify(written)))).toEqual(read);
    expect(createModel(config({ ...distil, num_labels: 3 })).toHfConfig()).not.toHaveProperty("id2label");
    const named = config({ ...distil, architectures: ["DistilBertForTokenClassification"], num_labels: 3 });
    expect(createModel(named).toHfConfig().id2label).toEqual({ 0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2" });
  });

  const head = { architectures: ["BertForSequenceClassification"] };
  it.each<[object, RegExp]>([
    [{ hidden_size: 15 }, /hidden_size 15 is not a multiple of num_attention_heads 2/],
    [{ hidden_act: "mish" }, /hidden_act is "mish"; kiln computes gelu, /],
    [{ position_embedding_type: "relative_key" }, /position_embedding_type is "relative_key"/],
    [{ is_decoder: true }, /is_decoder is true/],
    [{ add_cross_attention: true }, /add_cross_attention is true/],
    [{ hidden_dropout_prob: 1 }, /hidden_dropout_prob/],
    [{ quantization_config: {} }, /quantization_config/],
    [
      { architectures: ["BertForMultipleChoice"] },
      /architectures is \["BertForMultipleChoice"\]; kiln has Bert/,
    ],
    [{ architectures: ["BertForMaskedLM"], tie_word_embeddings: false }, /tie_word_embeddings is false/],
    [{ ...head, id2label: { 0: "a", 2: "b" } }, /id2label has no label 1 among its 2/],
    [{ ...head, id2label: { 0: "a", 1: "b" }, label2id: { a: 1, b: 0 } }, /label2id says that "a" is 1/],
    [{ ...head, id2label: { 0: "a", 1: "a" } }, /two numbers the same label/],
    [{ ...head, problem_type: "ranking" }, /problem_type/],
    [{ model_type: "roberta", max_position_embeddings: 2 }, /max_position_embeddings must be more/],
  ])("refuses %j in one line that names the key", (change, message) => {
    const attempt = () => config({ model_type: "bert", ...small, ...change });
    expect(attempt).toThrow(KilnError);
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(/^m\/config\.json: [^\n]*$/);
  });

  it.each<[object, RegExp]>([
    [{ attention_head_size: 9 }, /attention_head_size is 9; kiln computes 8 only with hidden_size 16/],
    [{ pooler_hidden_size: 8 }, /pooler_hidden_size is 8; kiln computes 16 only/],
    [{ pos_att_type: ["p2p"] }, /pos_att_type/],
    [{ norm_rel_ebd: "batch_norm" }, /norm_rel_ebd/],
    [{ position_buckets: 2 }, /position_buckets is 2; kiln computes 4 or more, or -1 for none/],
    [{ conv_kernel_size: 4 }, /conv_kernel_size 4 must be odd/],
    [{ conv_groups: 3 }, /conv_groups 3 divide hidden_size/],
    [{ conv_act: "mish" }, /conv_act/],
    [
      { architectures: ["DebertaV2ForMaskedLM"], legacy: false },
      /embedding_size is 12; kiln computes 16 only/,
    ],
    [{ architectures: ["DebertaForMaskedLM"] }, /kiln has DebertaV2Model/],
  ])("of DeBERTa refuses %j in one line that names the key", (change, message) => {
    expect(() => config({ ...deberta, ...change })).toThrow(message);
    expect(() => config({ ...deberta, ...change })).toThrow(/^m\/config\.json: [^\n]*$/);
  });

  it("is refused where a decoder is needed", () => {
    expect(() => decoderConfig(bert("ForMaskedLM"), "m")).toThrow(/m is a BertForMaskedLM, which reads text/);
  });
});

describe("packed rows", () => {
  const heads = ["Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"];
  const kinds = ["bert", "roberta", "distilbert", "deberta-v2", "gpt2"].flatMap((kind) =>
    (kind === "gpt2" ? ["ForSequenceClassification"] : heads).map((head) => ({ kind, head })),
  );
  const names: Record<string, string> = {
    bert: "Bert",
    roberta: "Roberta",
    distilbert: "DistilBert",
    "deberta-v2": "DebertaV2",
    gpt2: "GPT2",
  };
  const own: Record<string, object> = {
    bert: small,
    roberta: small,
    distilbert: { ...distil, initializer_range: 0.3, max_position_embeddings: 32 },
    "deberta-v2": deberta,
    gpt2: { vocab_size: 40, n_embd: 16, n_layer: 2, n_head: 2, n_positions: 32, initializer_range: 0.3 },
  };

  it.each(kinds)("of $kind $head give each text what it gives alone (float64)", async ({ kind, head }) => {
    openReference();
    const architectures = [`${names[kind]}${head}`];
    const model = createModel(config({ model_type: kind, ...own[kind], architectures })).init(3) as Encoder;
    const texts: EncodedText[] = [7, 3, 12, 1, 5].map((size, t) => ({
      ids: Array.from({ length: size }, (_, i) => 2 + ((t * 11 + i * 7) % 38)),
      typeIds: Array.from({ length: size }, (_, i) => Number(/^(de)?bert/.test(kind) && i > 2)),
    }));
    const rows = packTexts(model, texts, 15);
    expect(rows.shape).toEqual([2, 15]);
    const together = await values(() => model.logits(uploadRows(rows, model)));
    const perText = model.task === "text-classification";
    const width = together.length / (perText ? texts.length : 30);
    for (const [i, text] of texts.entries()) {
      const alone = await values(() => {
        const row = packTexts(model, [text], text.ids.length);
        return model.logits(uploadRows(row, model));
      });
      const at = (perText ? i : rows.starts[i]) * width;
      expect(farthest(together.subarray(at, at + alone.length), alone)).toBeLessThan(1e-9);
    }
  });

  it("hold every text whole, overlap nowhere, and leave no row that a text would have fit into (property)", () => {
    const model = createModel(bert("Model")) as Encoder;
    const lengths = fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(lengths, (list) => {
        const texts = list.map((size, t) => ({ ids: new Array<number>(size).fill(t + 1) }));
        const { tokens, segments, positions, starts, shape } = packTexts(model, texts, 20);
        const real = segments.filter((segment) => segment > 0);
        expect(real.length).toBe(list.reduce((a, b) => a + b, 0));
        for (const [i, size] of list.entries()) {
          const place = starts[i];
          expect((place % 20) + size).toBeLessThanOrEqual(20);
          expect([...segments.subarray(place, place + size)]).toEqual(new Array(size).fill(i + 1));
          expect([...tokens.subarray(place, place + size)]).toEqual(texts[i].ids);
          expect([...positions.subarray(place, place + size)]).toEqual(texts[i].ids.map((_, p) => p));
        }
        // Two rows less than half full would have been one.
        const used = Array.from(
          { length: shape[0] },
          (_, r) => segments.subarray(r * 20, (r + 1) * 20).filter((s) => s > 0).length,
        );
        expect(used.filter((n) => n <= 10).length).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("refuse what does not fit", () => {
    const model = createModel(bert("Model")) as Encoder;
    const text = (size: number) => ({ ids: new Array<number>(size).fill(1) });
    expect(() => packTexts(model, [text(3), text(9)], 8)).toThrow(/text 1 has 9 tokens; a row holds 1 to 8/);
    expect(() => packTexts(model, [text(0)], 8)).toThrow(/text 0 has 0 tokens/);
    expect(() => packTexts(model, [text(8), text(1)], 8, 1)).toThrow(/need 2 rows of 8 tokens; there are 1/);
    expect(packTexts(model, [text(2)], 8, 3).shape).toEqual([3, 8]);
  });
});

it("counts RoBERTa's positions from behind its padding token's, and gives padding that token's own", () => {
  const model = createModel(config({ model_type: "roberta", ...small })) as Encoder;
  expect(model.positionsOf([5, 1, 6, 7, 1, 1])).toEqual([0, -1, 1, 2, -1, -1]);
  expect(model.shape.max_position_embeddings).toBe(30);
});

describe("losses", () => {
  const batch = (model: Encoder, labels: Tensor): EncoderBatch => {
    const texts = [{ ids: [3, 4, 5] }, { ids: [6, 7] }, { ids: [8] }];
    return { ...uploadRows(packTexts(model, texts, 4), model), labels };
  };
  const made = (head: string, more: object) => createModel(bert(head, more)).init(2) as Encoder;
  const lossOf = (model: Encoder, labels: () => Tensor) => values(() => model.loss(batch(model, labels())));
  const rowsOf = async (model: Encoder, width: number) => {
    const flat = await values(() => model.logits(batch(model, tensor([0]))));
    return [0, 1, 2].map((r) => [...flat.subarray(r * width, (r + 1) * width)]);
  };

  it("leave out labels of -100, of classes, of several labels and of numbers (float64)", async () => {
    openReference();
    const single = made("ForSequenceClassification", { num_labels: 3 });
    const [first, , third] = await rowsOf(single, 3);
    const crossEntropy = (row: number[], y: number) =>
      Math.log(row.reduce((s, v) => s + Math.exp(v), 0)) - row[y];
    const classes = await lossOf(single, () => tensor([2, -100, 0], [3], "i32"));
    expect(classes[0]).toBeCloseTo(crossEntropy(first, 2) + crossEntropy(third, 0), 6);

    const several = made("ForSequenceClassification", {
      num_labels: 2,
      problem_type: "multi_label_classification",
    });
    const logits = await rowsOf(several, 2);
    const binary = (x: number, y: number) => Math.log(1 + Math.exp(-Math.abs(x))) + Math.max(x, 0) - x * y;
    const sum =
      binary(logits[0][0], 1) + binary(logits[0][1], 0) + binary(logits[2][0], 1) + binary(logits[2][1], 1);
    const labels = () => tensor([1, 0, -100, -100, 1, 1], [3, 2]);
    expect((await lossOf(several, labels))[0]).toBeCloseTo(sum, 6);

    const number = made("ForSequenceClassification", { num_labels: 1, problem_type: "regression" });
    const [[a], , [c]] = await rowsOf(number, 1);
    const squares = (a - 0.5) ** 2 + (c + 101) ** 2;
    const [found] = await lossOf(number, () => tensor([0.5, -100, -101], [3, 1]));
    expect(found / squares).toBeCloseTo(1, 6);
  });

  it("of a model without a head are refused", () => {
    const model = made("Model", {});
    expect(() => noGrad(() => model.loss(batch(model, tensor([0], [1], "i32"))))).toThrow(
      /without a head has no loss/,
    );
  });

  it.each<[string, object]>([
    [
      "hidden_dropout_prob",
      bert("ForSequenceClassification", {
        attention_probs_dropout_prob: 0,
        classifier_dropout: 0,
        hidden_dropout_prob: 0.4,
      }),
    ],
    [
      "attention_probs_dropout_prob",
      bert("ForSequenceClassification", { hidden_dropout_prob: 0, attention_probs_dropout_prob: 0.4 }),
    ],
    [
      "classifier_dropout",
      bert("ForSequenceClassification", {
        hidden_dropout_prob: 0,
        attention_probs_dropout_prob: 0,
        classifier_dropout: 0.4,
      }),
    ],
    [
      "seq_classif_dropout",
      config({
        ...distil,
        architectures: ["DistilBertForSequenceClassification"],
        dropout: 0,
        attention_dropout: 0,
        seq_classif_dropout: 0.4,
        initializer_range: 0.3,
      }),
    ],
    ...["hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout"].map(
      (name): [string, object] => {
        const none = { hidden_dropout_prob: 0, attention_probs_dropout_prob: 0, cls_dropout: 0, [name]: 0.4 };
        return [name, config({ ...deberta, ...none, architectures: ["DebertaV2ForSequenceClassification"] })];
      },
    ),
  ])("drop with %s as the key says, and only with a key", async (_, which) => {
    const model = createModel(which as EncoderConfig).init(2) as Encoder;
    const labels = () => tensor([0, 1, 1], [3], "i32");
    const withKey = (key: number) =>
      values(() => model.loss({ ...batch(model, labels()), dropoutKey: tensor([key, 0, 0, 0], [4], "u32") }));
    const plain = await lossOf(model, labels);
    const [one, again, other] = [await withKey(1), await withKey(1), await withKey(2)];
    expect(again).toEqual(one);
    expect(new Set([plain[0], one[0], other[0]]).size).toBe(3);
  });
});

it("DeBERTa's recomputed blocks give the gradients of kept ones", async () => {
  const model = createModel(config({ ...deberta, architectures: ["DebertaV2ForMaskedLM"] })).init(
    2,
  ) as Encoder;
  const run = async (recompute: boolean) => {
    model.recompute = recompute;
    const made = scope(() => {
      const rows = uploadRows(packTexts(model, [{ ids: [3, 4, 5, 6] }, { ids: [7, 8] }], 8), model);
      const labels = tensor([1, 2, 3, 4, 5, 6, -100, -100], [8], "i32");
      const dropoutKey = tensor([1, 2, 3, 4], [4], "u32");
      return grads(model.loss({ ...rows, labels, dropoutKey }), model.parameters()) as Tensor[];
    });
    const read = await Promise.all(made.map(async (t) => [...(await t.data())]));
    dispose(made);
    return read;
  };
  expect(await run(true)).toEqual(await run(false));
});

describe("old checkpoints", () => {
  let weights: Map<string, HostTensor>;
  const mlm = bert("ForMaskedLM");
  beforeAll(async () => {
    weights = await readTensors(createModel(mlm).init(1).namedParameters());
  });
  const words = "bert.embeddings.word_embeddings.weight";
  const load = (change: Record<string, HostTensor>, rename = (name: string) => name, into = mlm) => {
    const renamed = [...weights].map(([name, tensor]) => [rename(name), tensor] as const);
    loadWeights(createModel(into), new Map([...renamed, ...Object.entries(change)]));
  };

  it("are read with gamma and beta, without the prefix, with buffers, the pooler and what pretraining left", () => {
    load({}, (name) =>
      name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    );
    load({}, (name) => name.replace(/^bert\./, ""));
    load({
      "bert.embeddings.position_ids": hostTensor("I64", [1, 2], new BigInt64Array(2)),
      "bert.pooler.dense.weight": weights.get("cls.predictions.transform.dense.weight")!,
      "cls.seq_relationship.bias": weights.get("cls.predictions.transform.dense.bias")!,
      "cls.predictions.decoder.weight": weights.get(words)!,
      "cls.predictions.decoder.bias": weights.get("cls.predictions.bias")!,
    });
    load({}, undefined, bert("Model"));
  });

  it("are refused where a tied matrix differs, a tensor is missing or has no place", () => {
    const other = hostTensor("F32", [40, 16], new Float32Array(640).fill(1));
    expect(() => load({ "cls.predictions.decoder.weight": other })).toThrow(
      /decoder\.weight that differs from/,
    );
    expect(() => load({ "bert.encoder.layer.7.output.dense.bias": other })).toThrow(/for which the model/);
    expect(() => load({}, undefined, bert("ForSequenceClassification"))).toThrow(
      /no tensor bert\.pooler\.dense/,
    );
  });

  it("hold one copy of a tied matrix, and the bias of its own", () => {
    const names = [...weights.keys()];
    expect(names.filter((name) => /decoder|word_emb/.test(name))).toEqual([words]);
    expect(names).toContain("cls.predictions.bias");
    expect(names.some((name) => name.includes("LayerNorm.weight"))).toBe(true);
  });
});

it("normalises rows to length 1 and leaves a row of zeros", async () => {
  const rows = await values(() => normalized(tensor([3, 4, 0, 0], [2, 2])));
  expect(farthest(rows, [0.6, 0.8, 0, 0])).toBeLessThan(1e-6);
});
