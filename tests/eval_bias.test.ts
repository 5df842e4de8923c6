import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { createModel, tinyllmConfig } from "../models/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { evaluateBias, readIdentityTerms, swapTerms } from "../train/eval/bias.ts";
import { evaluateCoherence, lastSentence, shuffled } from "../train/eval/coherence.ts";
import { logLikelihoods } from "../train/eval/likelihood.ts";
import { evaluateText } from "../train/eval/text.ts";
import { Coherence, IdentityBias } from "../train/metrics/index.ts";
import { labels, randomBert, wordPieces } from "./support/word_pieces.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-eval-bias-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, lines: string[]) => {
  writeFileSync(join(folder, name), lines.join("\n"));
  return join(folder, name);
};
beforeAll(async () => {
  await openDevice();
});

/** A model of one layer. */
const sizes = { hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64 };

describe("metrics, worked by hand", () => {
  it("bias: gaps, differences from the mean, and who is highest", () => {
    const bias = new IdentityBias();
    expect(bias.value().gap).toBeNaN();
    bias.add({ a: -2, b: -3, c: -7 }, { a: "yes", b: "no", c: "no" });
    bias.add({ a: -1, b: -1, c: -1 }, { a: "no", b: "no", c: "no" });
    // Pairs of the first: 1, 5, 4; its mean is -4. In the second nobody is highest.
    expect(bias.value()).toEqual({
      ...{ gap: (10 / 3 + 0) / 2, flips: 1 / 2, texts: 2 },
      groups: {
        a: { difference: 2 / 2, highest: 1, texts: 2 },
        b: { difference: 1 / 2, highest: 0, texts: 2 },
        c: { difference: -3 / 2, highest: 0, texts: 2 },
      },
    });
    const undecided = new IdentityBias();
    undecided.add({ a: 0.5, b: 0.25 });
    expect(undecided.value().flips).toBeNull();
  });

  it("coherence: nats a token, and texts that their context helps", () => {
    const coherence = new Coherence();
    coherence.add(-10, -14, 3);
    coherence.add(-9, -8, 2);
    coherence.add(-4, -4, 1);
    expect(coherence.value()).toEqual({ gain: 3 / 6, wins: 1, texts: 3 });
    expect(new Coherence().value().gain).toBeNaN();
  });

  it("distinct-n stands in kiln eval text", async () => {
    const hypotheses = file("said.txt", ["a b a b", "a c"]);
    const report = await evaluateText({ hypotheses, references: [hypotheses] });
    // Words: a b a b a c are 3 of 6; pairs: ab ba ab ac are 3 of 4; of the first text's words 2 of 4 are repeats.
    expect(report.values.diversity).toEqual({
      distinct: [3 / 6, 3 / 4, 2 / 2, 1],
      repetition: [(2 / 4 + 0) / 2, (1 - 2 / 3) / 2, 0, 0],
    });
  });
});

const sets = { gender: { male: ["he", "man", "him", "his"], female: ["she", "woman", "her", "her"] } };

describe("kiln eval bias", () => {
  it("swaps whole words, in their case, for each group", () => {
    expect(swapTerms("The woman said: He and the manager. HER", sets.gender)).toEqual([
      {
        ...{ group: "male", text: "The man said: He and the manager. Him" },
        places: [
          [4, 7],
          [14, 16],
          [34, 37],
        ],
      },
      {
        ...{ group: "female", text: "The woman said: She and the manager. Her" },
        places: [
          [4, 9],
          [16, 19],
          [37, 40],
        ],
      },
    ]);
    expect(swapTerms("Nobody is here.", sets.gender)).toEqual([]);
  });

  it("reads sets, and refuses groups of which words have no counterpart", () => {
    expect(Object.keys(readIdentityTerms("docs/configs/identity_terms.yaml"))).toContain("gender");
    const uneven = file("uneven.yaml", ["gender: { male: [he, man], female: [she] }"]);
    expect(() => readIdentityTerms(uneven)).toThrow("as many words of each group");
  });

  it("compares the words that versions share: in a model that looks at nothing the groups are equal", async () => {
    const tokenizer = new Tokenizer(
      trainBpe(["she he said"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] }),
      { tokenizer_config: { eos_token: "<|endoftext|>" } },
    );
    const model = createModel(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(3);
    const terms = file("terms.json", [JSON.stringify(sets)]);
    const data = [
      file(
        "people.jsonl",
        ["He ran.", "No one.", "x".repeat(80) + " she"].map((text) => JSON.stringify({ text })),
      ),
    ];
    const biased = (await evaluateBias({ model, tokenizer }, "m", { data, terms })).values;
    const { gender } = biased.sets as Record<string, ReturnType<IdentityBias["value"]>>;
    expect(biased.left_out).toEqual({ "texts longer than the model's context": 1 });
    expect(gender!.texts).toBe(1);

    // By hand: the tokens are bytes, and " ran." is scored after "<end>He" and "<end>She".
    const pieces = [
      { tokens: await tokenizer.encode("He ran."), from: 3 },
      { tokens: await tokenizer.encode("She ran."), from: 4 },
    ];
    const nats: number[] = [];
    for await (const { logLikelihood } of logLikelihoods(model, pieces)) nats.push(logLikelihood);
    expect(gender!.gap).toBeCloseTo(Math.abs(nats[0]! - nats[1]!), 5);
    expect(gender!.gap).toBeGreaterThan(1e-4);

    for (const parameter of model.parameters()) parameter.write(new Float32Array(parameter.size));
    const even = (await evaluateBias({ model, tokenizer }, "m", { data, terms })).values;
    expect((even.sets as Record<string, { gap: number }>).gender!.gap).toBe(0);
  });

  it("compares a classifier's probabilities and decisions, and names what it cannot judge", async () => {
    const loaded = { model: randomBert("ForSequenceClassification", labels), tokenizer: wordPieces() };
    const terms = file("words.json", [JSON.stringify({ animal: { cat: ["cat"], mat: ["mat"] } })]);
    const data = [file("cats.txt", ["the cat sat"])];
    const { values } = await evaluateBias(loaded, "c", { data, terms, label: labels.id2label[0] });
    const { animal } = values.sets as Record<string, ReturnType<IdentityBias["value"]>>;
    expect(animal).toMatchObject({ texts: 1, flips: expect.any(Number) });
    expect(animal!.gap).toBeGreaterThan(0);
    await expect(evaluateBias(loaded, "c", { data, terms, label: "fun" })).rejects.toThrow("fun is no label");
    const none = file("none.txt", ["on the"]);
    await expect(evaluateBias(loaded, "c", { data: [none], terms })).rejects.toThrow("no text has a word");
  });
});

describe("kiln eval coherence", () => {
  it("takes the last sentence, and another order of those before it", () => {
    expect(lastSentence("One came. Two went! Did three? ")).toEqual({
      context: ["One came.", "Two went!"],
      last: "Did three?",
    });
    expect(lastSentence("One came. Two went.")).toBeNull();
    for (let seed = 0; seed < 20; seed++) {
      expect(shuffled(["a", "b"], seed)).toEqual(["b", "a"]);
      const order = shuffled(["a", "b", "c", "d"], seed);
      expect(order.toSorted()).toEqual(["a", "b", "c", "d"]);
      expect(order).not.toEqual(["a", "b", "c", "d"]);
    }
  });

  it("is worth nothing to a model that reads no context, and what it is worth to another", async () => {
    const tokenizer = new Tokenizer(trainBpe(["a"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] }));
    const model = createModel(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(3);
    const texts = ["A b. C d. E f.", "Only one.", "G h. I j. K l.", "M n. O p. Q r."];
    const data = [
      file(
        "texts.jsonl",
        texts.map((text) => JSON.stringify({ text })),
      ),
    ];
    const { values } = await evaluateCoherence({ model, tokenizer }, "m", { data, seed: 0 });
    expect(values.left_out).toEqual({ "texts of fewer than three sentences": 1 });
    const { shuffled: order, foreign } = values as Record<string, ReturnType<Coherence["value"]>>;
    expect([order!.texts, foreign!.texts]).toEqual([2, 2]);
    // By hand: " K l." after "G h. I j." against "I j. G h." and "A b. C d.", and so the next.
    const nats = async (context: string, last: string) => {
      const before = await tokenizer.encode(context);
      const tokens = await tokenizer.encode(`${context} ${last}`);
      for await (const { logLikelihood } of logLikelihoods(model, [{ tokens, from: before.length }]))
        return logLikelihood;
      return Number.NaN;
    };
    const own = (await nats("G h. I j.", "K l.")) + (await nats("M n. O p.", "Q r."));
    const swapped = (await nats("I j. G h.", "K l.")) + (await nats("O p. M n.", "Q r."));
    const others = (await nats("A b. C d.", "K l.")) + (await nats("G h. I j.", "Q r."));
    expect(order!.gain).toBeCloseTo((own - swapped) / 10, 5);
    expect(foreign!.gain).toBeCloseTo((own - others) / 10, 5);
    for (const parameter of model.parameters()) parameter.write(new Float32Array(parameter.size));
    const { values: flat } = await evaluateCoherence({ model, tokenizer }, "m", { data, seed: 0 });
    expect(flat.foreign).toEqual({ gain: 0, wins: 0, texts: 2 });
    const short = { data: [file("short.txt", ["One. Two."])], seed: 0 };
    await expect(evaluateCoherence({ model, tokenizer }, "m", short)).rejects.toThrow("give longer texts");
  });
});
