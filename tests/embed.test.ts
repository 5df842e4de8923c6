import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../index.ts";
import { createModel, parseModelConfig } from "../models/architectures.ts";
import type { Encoder } from "../models/encoder.ts";
import { pipeline } from "../models/pipeline.ts";
import { TextReader } from "../models/text_reader.ts";
import { readTextPairs } from "../train/data/text_pairs.ts";
import { rankingLoss, rankingSums } from "../train/losses/contrastive.ts";
import { type EncodedPair, heldOutPairs, PairBatches, uploadPairs } from "../train/pair_batches.ts";
import { recipe } from "../train/recipes/embed.ts";
import { run } from "../train/run.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-embed-"));
beforeAll(async () => void (await openDevice()));
afterAll(() => rmSync(root, { recursive: true }));
const file = (name: string, lines: readonly string[]) => {
  writeFileSync(join(root, name), lines.join("\n"));
  return join(root, name);
};

const animals = ["cat", "dog", "cow", "hen", "elk", "ant"];
const sounds = ["mew", "woof", "moo", "cluck", "roar", "tick"];
const places = ["house", "field", "town", "wood"];
const table = file("pairs.csv", [
  "title,body",
  ...animals.flatMap((animal, i) =>
    places.map((place) => `${animal} of the ${place},in this ${place} all day it says ${sounds[i]}`),
  ),
]);

describe("the recipe embed", () => {
  it("learns which passage answers a query, and its vectors find it", async () => {
    const settings = [
      ...[`data.path=${table}`, "data.validation_fraction=0.25", "tokenizer.vocab_size=300"],
      ...["model.hidden_size=32", "model.num_hidden_layers=1", "model.num_attention_heads=2"],
      ...["train.sequence_length=24", "train.batch_size=1", "ranking.group=6", "train.learning_rate=0.01"],
      ...["train.steps=60", "train.warmup_steps=5", "eval.every=0", `out_dir=${join(root, "run")}`],
    ];
    const config = await loadSettings(recipe, null, parseOverrides(settings));
    const said: string[] = [];
    const { metrics } = await run(recipe, {
      config,
      makeSampler: () => async () => "",
      say: (line) => said.push(line),
    });
    expect(said.join("\n")).toContain("training data: 18 pairs; held out: 6");
    expect(metrics!.nearest_is_right!).toBeGreaterThan(0.6);
    expect(metrics!.validation_loss!).toBeLessThan(Math.log(6));
    const embed = await pipeline("feature-extraction", join(root, "run/model"));
    const texts = ["cow of the town", "in this town all day it says moo", "in this wood all day it says mew"];
    const { data, dims } = await embed(texts, { pooling: "mean", normalize: true });
    const near = (a: number, b: number) =>
      data
        .subarray(a * dims[1], (a + 1) * dims[1])
        .reduce((sum, value, i) => sum + value * data[b * dims[1] + i], 0);
    expect(near(0, 1)).toBeGreaterThan(near(0, 2) + 0.1);
  });
});

describe("the ranking loss", () => {
  const ids = (seed: number, size: number) =>
    Array.from({ length: size }, (_, i) => 1 + ((seed * 7 + i * 3) % 19));
  const pairs = Array.from(
    { length: 7 },
    (_, i): EncodedPair => ({
      query: ids(i, 2 + (i % 3)),
      passage: ids(i + 20, 3 + (i % 4)),
      queryNumber: i,
      // Pairs 0 and 1 have one passage.
      passageNumber: Math.max(1, i),
    }),
  );
  const sizes = {
    dim: 16,
    n_layers: 1,
    n_heads: 2,
    hidden_dim: 16,
    max_position_embeddings: 8,
    vocab_size: 20,
  };
  const make = () =>
    createModel(
      parseModelConfig({
        model_type: "distilbert",
        architectures: ["DistilBertModel"],
        ...sizes,
        pad_token_id: 0,
      }),
    ).init(1) as Encoder;
  const lengths = { query: 5, passage: 8 };

  it("is the cross-entropy of scaled cosines within a group, without passages that answer as well", async () => {
    const model = make();
    const held = heldOutPairs(model, pairs, { batchSize: 1, group: 4, lengths, seed: 0 });
    const batches = [...held.batches({ rows: held.rows, batchSize: 1 })];
    expect(batches.map(({ supervised }) => supervised)).toEqual([4, 3]);
    const reader = new TextReader(model, undefined as never);
    const vectors = (side: "query" | "passage") =>
      reader.vectors(
        pairs.map((pair) => ({ ids: pair[side] })),
        "mean",
        true,
      );
    const [queries, passages] = [await vectors("query"), await vectors("passage")];
    for (const [b, group] of [pairs.slice(0, 4), pairs.slice(4)].entries()) {
      let [expected, right] = [0, 0];
      for (const [i, { passageNumber }] of group.entries()) {
        const scores = group.map((other, j) =>
          other.passageNumber === passageNumber && i !== j
            ? Number.NEGATIVE_INFINITY
            : 20 * queries[4 * b + i].reduce((sum, value, k) => sum + value * passages[4 * b + j][k], 0),
        );
        expected += Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0)) - scores[i];
        if (scores.every((score) => score <= scores[i])) right++;
      }
      const inputs = uploadPairs(batches[b], model);
      expect(await rankingLoss(model, inputs, 20).item()).toBeCloseTo(expected, 3);
      const sums = await rankingSums(model, inputs, 20).data();
      expect(Number(sums[0])).toBeCloseTo(expected, 3);
      expect(sums[1]).toBe(right);
    }
  });

  it("meets other groups each pass, every pair at most once, and goes on from a cursor", () => {
    const options = { batchSize: 1, group: 3, lengths, seed: 4 };
    const batches = new PairBatches(make(), pairs, options);
    expect(batches.rowsPerEpoch).toBe(2);
    const drawn = Array.from({ length: 4 }, () => Array.from(batches.next().query.tokens));
    const cursor = batches.state();
    const next = batches.next();
    const again = new PairBatches(make(), pairs, options);
    again.restore(cursor);
    expect(again.next()).toEqual(next);
    const rows = (some: number[][]) =>
      some.flatMap((tokens) => [0, 5, 10].map((at) => tokens.slice(at, at + 5).join()));
    for (const pass of [drawn.slice(0, 2), drawn.slice(2)]) expect(new Set(rows(pass)).size).toBe(6);
    expect(drawn.slice(2).map(String).sort()).not.toEqual(drawn.slice(0, 2).map(String).sort());
    expect(() => new PairBatches(make(), pairs, { ...options, group: 8 })).toThrow(
      /ranking\.group is 8, and there are 7 pairs/,
    );
  });
});

describe("tables of pairs", () => {
  it("are read by usual or given columns; empty and repeated rows are counted", async () => {
    const said: string[] = [];
    const path = file("some.jsonl", [
      '{"question": "a?", "context": "b"}',
      '{"question": "a?", "context": "b"}',
      '{"question": "", "context": "c"}',
      '{"question": "d?", "context": "e"}',
    ]);
    const { examples } = await readTextPairs([path], { say: (line) => said.push(line) });
    expect(examples).toEqual([
      { query: "a?", passage: "b" },
      { query: "d?", passage: "e" },
    ]);
    expect(said).toEqual([
      `left out of ${path}: rows without a query or a passage 1`,
      `left out of ${path}: rows that came before 1`,
    ]);
    const bare = file("bare.csv", ["x,long text", "y,other text"]);
    const numbered = await readTextPairs([bare], { query: "1", passage: "2" });
    expect(numbered.examples[0]).toEqual({ query: "x", passage: "long text" });
    await expect(readTextPairs([bare], {})).rejects.toThrow(
      /no column has a usual name for the query: choose it with --query; there is/,
    );
    const one = file("one.csv", ["title,text", "x,y"]);
    await expect(readTextPairs([one], {})).rejects.toThrow(/1 pair of a query and a passage/);
  });
});
