import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { stem } from "../tokenizer/text/stem.ts";
import {
  Bleu,
  type BleuOptions,
  Chrf,
  type ChrfOptions,
  Classification,
  confusionSvg,
  confusionText,
  Diversity,
  McNemar,
  Moments,
  MultiLabelClassification,
  MultipleChoice,
  PassAtK,
  Perplexity,
  pairedBootstrap,
  passAtK,
  proportionsTest,
  Rouge,
  rouge,
  selfBleu,
  Ter,
  welchTest,
  wilsonInterval,
} from "../train/index.ts";

/**
 * tests/fixtures/metrics_python.json: random texts scored by sacrebleu 2.6.0, stems of NLTK 3.10.3, ROUGE by the published
 * definition of rouge_score over that stemmer, random predictions scored by scikit-learn, tests by scipy 1.17.1.
 */
interface Python {
  texts: {
    hyps: string[];
    refs: string[][];
    bleu: { options: BleuOptions; score: number; precisions: number[]; bp: number; sys: number; ref: number };
    chrf: { options: ChrfOptions; score: number };
    ter: { caseSensitive: boolean; score: number };
  }[];
  stems: Record<string, string>;
  rouge: (Record<"target" | "prediction", string> & Record<"plain" | "stemmed", Record<string, number[]>>)[];
  classification: {
    k: number;
    y: number[];
    pr: number[][];
    acc: number;
    mcc: number;
    ece: number;
    avg: Record<"macro" | "weighted" | "micro", number[]>;
    per: number[][];
    conf: number[][];
  }[];
  multi: {
    k: number;
    y: number[][];
    p: number[][];
    subset: number;
    hamming: number;
    avg: Record<"macro" | "weighted" | "micro" | "samples", number[]>;
  }[];
  tests: {
    b: number;
    c: number;
    exact: number;
    corrected: number;
    s: number;
    n: number;
    cf: number;
    wilson: [number, number];
    s2: number;
    n2: number;
    z: number;
    pz: number;
    x: number[];
    y: number[];
    t: number;
    df: number;
    pt: number;
  }[];
}
const python: Python = JSON.parse(
  readFileSync(new URL("fixtures/metrics_python.json", import.meta.url), "utf8"),
);
const labels = (count: number) => Array.from({ length: count }, (_, i) => `label ${i}`);

function expectNear(got: readonly number[], want: readonly number[], what: unknown = ""): void {
  expect(got.length).toBe(want.length);
  for (const [i, value] of want.entries())
    expect(Math.abs(got[i] - value), `${JSON.stringify(what)} [${i}]: ${got[i]}, not ${value}`).toBeLessThan(
      1e-9,
    );
}

const word = fc.constantFrom(
  "the",
  "cat",
  "sat",
  "3.5",
  "it's",
  "naïve",
  "日本",
  "😀",
  "a-b",
  "end.",
  "&amp;",
);
const sentence = fc.array(word, { minLength: 1, maxLength: 12 }).map((words) => words.join(" "));

describe("metrics of texts", () => {
  it("are those of sacrebleu: tokenizers, smoothings, orders, several references, long texts", () => {
    for (const { hyps, refs, bleu, chrf, ter } of python.texts) {
      const metrics = [
        new Bleu(bleu.options),
        new Chrf(chrf.options),
        new Ter({ lowercase: !ter.caseSensitive }),
      ] as const;
      for (const [i, text] of hyps.entries()) for (const metric of metrics) metric.add(text, refs[i]);
      const got = metrics[0].value();
      expectNear(
        [got.score, got.brevityPenalty, got.hypothesisLength, got.referenceLength, ...got.precisions],
        [bleu.score, bleu.bp, bleu.sys, bleu.ref, ...bleu.precisions],
        { hyps, refs, options: bleu.options },
      );
      expectNear([metrics[1].value()], [chrf.score], { hyps, refs, options: chrf.options });
      expectNear([metrics[2].value()], [ter.score], { hyps, refs });
    }
  });

  it("give a text compared with itself the best score, and one without a common word none", () => {
    fc.assert(
      fc.property(fc.array(sentence, { minLength: 1, maxLength: 4 }), (texts) => {
        const all = [new Bleu({ effectiveOrder: true }), new Chrf({ wordOrder: 2 }), new Ter()] as const;
        for (const text of texts) for (const metric of all) metric.add(text, [text, "xyz"]);
        expect(all[0].value().score).toBeCloseTo(100, 9);
        expect(all[1].value()).toBeCloseTo(100, 9);
        expect(all[2].value()).toBe(0);
        const other = new Bleu();
        for (const text of texts) other.add("x y z", text);
        expect(other.value().score).toBe(0);
      }),
    );
  });

  it("are the same whatever the order of segments and of references", () => {
    const segments = fc.array(fc.tuple(sentence, sentence, sentence), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(segments, (rows) => {
        const score = (list: typeof rows, swap: boolean) => {
          const [bleu, ter] = [new Bleu(), new Ter()];
          for (const [text, a, b] of list)
            for (const metric of [bleu, ter]) metric.add(text, swap ? [b, a] : [a, b]);
          return [bleu.value().score, ter.value()];
        };
        expectNear(score(rows.toReversed(), true), score(rows, false));
      }),
    );
  });

  it("say so when there is no reference, or no such setting", () => {
    expect(() => new Bleu().add("a", [])).toThrow(/no reference/);
    expect(() => new Bleu({ tokenize: "zh" as "char" })).toThrow(/no tokenizer zh.*13a, none, intl, char/);
    expect(() => new Bleu({ maxOrder: 0 })).toThrow(/order 0/);
  });

  it("ROUGE is that of rouge_score, with and without stems; several targets count with the best", () => {
    for (const { target, prediction, ...want } of python.rouge) {
      for (const kind of ["plain", "stemmed"] as const) {
        const got = rouge(prediction, target, { stemmed: kind === "stemmed" });
        for (const [type, { precision, recall, f1 }] of Object.entries(got))
          expectNear([precision, recall, f1], want[kind][type], { target, prediction, kind, type });
      }
    }
    const best = rouge("one two", ["three", "one two four", "one"]);
    expect(best.rouge1).toEqual(rouge("one two", "one two four").rouge1);
    const mean = new Rouge();
    expect(mean.value().rougeL.f1).toBe(0);
    mean.add("a b", "a b");
    mean.add("a b", "c d");
    expect(mean.value().rouge2).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5 });
  });

  it("stems are NLTK's", () => {
    const wrong = Object.entries(python.stems).filter(([text, want]) => stem(text) !== want);
    expect(wrong).toEqual([]);
    expect(stem("Running")).toBe("run");
    expect(stem("constructor")).toBe("constructor");
  });

  it("diversity tells variety from repetition", () => {
    const dull = new Diversity(2);
    for (let i = 0; i < 3; i++) dull.add("a b a b");
    // 2 of 12 words, 2 of 9 pairs; each text repeats 2 of 4 words and 1 of 3 pairs.
    expectNear(dull.value().distinct, [2 / 12, 2 / 9]);
    expectNear(dull.value().repetition, [1 / 2, 1 / 3]);
    expect(selfBleu(["a b c d", "a b c d"])).toBeCloseTo(100, 9);
    expect(selfBleu(["a b c d", "e f g h", "i j k l"])).toBe(0);
    expect(selfBleu(["a"])).toBeNaN();
  });
});

describe("metrics of classifiers", () => {
  it("are scikit-learn's: averages, classes, MCC, confusion; and the calibration error", () => {
    for (const want of python.classification) {
      const metric = new Classification(labels(want.k), { bins: 10 });
      for (const [i, actual] of want.y.entries()) metric.add(actual, want.pr[i]);
      const { accuracy, mcc, ece, perClass, macro, weighted, micro } = metric.value();
      expectNear([accuracy, mcc, ece!], [want.acc, want.mcc, want.ece]);
      for (const [name, got] of Object.entries({ macro, weighted, micro }))
        expectNear([got.precision, got.recall, got.f1], want.avg[name as "macro"], name);
      expect(metric.confusion).toEqual(want.conf);
      for (const [j, name] of (["precision", "recall", "f1", "support"] as const).entries())
        expectNear(
          perClass.map((score) => score[name]),
          want.per[j],
        );
    }
  });

  it("with several labels, too", () => {
    for (const want of python.multi) {
      const metric = new MultiLabelClassification(labels(want.k));
      for (const [i, actual] of want.y.entries()) metric.add(actual, want.p[i]);
      const { subsetAccuracy, hammingLoss, macro, weighted, micro, samples } = metric.value();
      expectNear([subsetAccuracy, hammingLoss], [want.subset, want.hamming]);
      for (const [name, got] of Object.entries({ macro, weighted, micro, samples }))
        expectNear([got.precision, got.recall, got.f1], want.avg[name as "macro"], name);
    }
  });

  it("keep their relations: F1 between precision and recall, micro F1 = accuracy, MCC symmetric", () => {
    const items = fc.array(fc.tuple(fc.nat(3), fc.nat(3)), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(items, (pairs) => {
        const [metric, swapped] = [new Classification(labels(4)), new Classification(labels(4))];
        for (const [actual, guess] of pairs) {
          metric.add(actual, guess);
          swapped.add(guess, actual);
        }
        const score = metric.value();
        for (const { precision, recall, f1 } of score.perClass) {
          expect(f1).toBeLessThanOrEqual(Math.max(precision, recall) + 1e-12);
          expect(f1).toBeGreaterThanOrEqual(Math.min(precision, recall) - 1e-12);
        }
        expect(score.micro.f1).toBeCloseTo(score.accuracy, 12);
        expect(score.weighted.recall).toBeCloseTo(score.accuracy, 12);
        expect(swapped.value().mcc).toBeCloseTo(score.mcc, 12);
        expect(Math.abs(score.mcc)).toBeLessThanOrEqual(1 + 1e-12);
        expect(score.ece).toBeNull();
      }),
    );
  });

  it("refuse what no classifier can have said", () => {
    const metric = new Classification(["a", "b"]);
    expect(() => metric.add(2, 0)).toThrow(/2 labels.*class 2/);
    expect(() => metric.add(0, [Number.NaN, 0.5])).toThrow(/NaN/);
    expect(() => metric.add(0, [0.2, 0.5, 0.3])).toThrow(/3 probabilities/);
    expect(() => new Classification(["a", "a"])).toThrow(/each of them once/);
    const multi = new MultiLabelClassification(["a", "b"]);
    expect(() => multi.add([1], [0.5, 0.5])).toThrow(/each of 2 labels/);
    expect(metric.value().count).toBe(0);
  });

  it("show the confusion matrix as text and as a picture", () => {
    const matrix = {
      labels: ["<good>", "bad"],
      confusion: [
        [1200, 3],
        [0, 0],
      ],
    };
    expect(confusionText(matrix)).toBe(
      [
        "true \\ predicted  <good>  bad",
        "<good>             1,200    3",
        "bad                    0    0",
      ].join("\n"),
    );
    const svg = confusionSvg(matrix, "a & b");
    expect(svg).toContain("&#60;good&#62;");
    expect(svg).not.toMatch(/<good>|a & b/);
    expect(svg.match(/<rect class="cell"/g)).toHaveLength(4);
    expect(svg).toContain('fill-opacity="0.998"');
  });
});

describe("metrics of language models", () => {
  it("perplexities are lm-eval's: per item, token, word and byte", () => {
    const metric = new Perplexity();
    metric.add("one two  three", -6, 4);
    metric.add("naïve", -4, 3);
    const { perplexity, tokenPerplexity, wordPerplexity, bytePerplexity, bitsPerByte } = metric.value();
    expectNear(
      [perplexity, tokenPerplexity, wordPerplexity, bytePerplexity, bitsPerByte],
      [Math.exp(5), Math.exp(10 / 7), Math.exp(10 / 4), Math.exp(10 / 20), 10 / 20 / Math.LN2],
    );
    expect(() => metric.add("x", Number.NaN, 1)).toThrow(/NaN/);
  });

  it("multiple choice is by likelihood, per character and per byte", () => {
    const metric = new MultipleChoice();
    // By sum the first, per character the second (1.5 against 3), per byte the third (two bytes a character).
    expect(metric.add(["a", "bbbb", "éé"], [-3, -6, -3.2], 1)).toEqual({ acc: 0, accNorm: 1, accBytes: 2 });
    expect(metric.add(["no", "yes"], [-1, -5], [0, 1])).toEqual({ acc: 0, accNorm: 0, accBytes: 0 });
    expect(metric.value()).toEqual({ acc: 0.5, accNorm: 1, accBytes: 0.5, count: 2 });
    expect(() => metric.add(["a", ""], [-1, -2], 0)).toThrow(/choices with text/);
    expect(() => metric.add(["a", "b"], [-1], 0)).toThrow(/one log-likelihood per choice/);
    expect(() => metric.add(["a", "b"], [-1, -2], 2)).toThrow(/an answer among them/);
  });

  it("pass@k is the unbiased estimate: the rate of k drawn programs that hold a right one", () => {
    expect(passAtK(5, 2, 1)).toBeCloseTo(2 / 5, 12);
    expect(passAtK(200, 200, 100)).toBe(1);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.nat(9), fc.integer({ min: 1, max: 9 }), (n, c, k) => {
        fc.pre(c <= n && k <= n);
        let without = 0;
        let draws = 0;
        for (let set = 0; set < 2 ** n; set++) {
          const drawn = [...set.toString(2)].filter((bit) => bit === "1").length;
          if (drawn !== k) continue;
          draws++;
          if ((set & (2 ** c - 1)) === 0) without++;
        }
        expect(passAtK(n, c, k)).toBeCloseTo(1 - without / draws, 12);
      }),
    );
    const metric = new PassAtK([1, 2]);
    metric.add(4, 4);
    metric.add(4, 0);
    expect([...metric.value()]).toEqual([
      [1, 0.5],
      [2, 0.5],
    ]);
    expect(() => metric.add(1, 1)).toThrow(/pass@2 needs at least 2 samples/);
    expect(() => passAtK(3, 4, 1)).toThrow(/4 of 3/);
  });
});

describe("significance", () => {
  it("is scipy's: McNemar, Wilson, proportions, Welch", () => {
    for (const want of python.tests) {
      const mcnemar = new McNemar();
      for (let i = 0; i < want.b; i++) mcnemar.add(true, false);
      for (let i = 0; i < want.c; i++) mcnemar.add(false, true);
      mcnemar.add(true, true);
      const { exact, corrected, bothRight } = mcnemar.value();
      expectNear([exact, corrected, bothRight], [want.exact, want.corrected, 1], want);
      expectNear(wilsonInterval(want.s, want.n, want.cf), want.wilson);
      const a = { successes: want.s, count: want.n };
      const { z, pValue } = proportionsTest(a, { successes: want.s2, count: want.n2 });
      expectNear([z, pValue], [want.z, want.pz]);
      const [x, y] = [new Moments(), new Moments()];
      for (const value of want.x) x.add(value);
      for (const value of want.y) y.add(value);
      const welch = welchTest(x, y);
      expectNear([welch.t, welch.df, welch.pValue], [want.t, want.df, want.pt]);
    }
  });

  const rows = fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 9 })), {
    minLength: 1,
    maxLength: 30,
  });

  it("a bootstrap of a system against itself finds nothing, and swapped systems change signs alone", () => {
    fc.assert(
      fc.property(rows, fc.nat(1000), (pairs, seed) => {
        const [a, b] = [pairs.map(([x]) => [x]), pairs.map(([, y]) => [y])];
        const options = { samples: 60, seed };
        expect(pairedBootstrap(a, a, options)).toMatchObject({ difference: 0, interval: [0, 0], pValue: 1 });
        const [one, other] = [pairedBootstrap(a, b, options), pairedBootstrap(b, a, options)];
        expect(other.pValue).toBe(one.pValue);
        expectNear(
          [other.difference, ...other.interval],
          [-one.difference, -one.interval[1], -one.interval[0]],
        );
        expect(pairedBootstrap(a, b, options)).toEqual(one);
      }),
      { numRuns: 40 },
    );
  });

  it("a bootstrap's interval covers the truth as often as it says, and its test errs as rarely", () => {
    let covered = 0;
    let rejected = 0;
    const runs = 200;
    for (let run = 0; run < runs; run++) {
      const draw = fc.sample(fc.tuple(fc.nat(99), fc.nat(99)), { seed: run, numRuns: 80 });
      const [a, b] = [draw.map(([x]) => [x < 50 ? 1 : 0]), draw.map(([, y]) => [y < 50 ? 1 : 0])];
      const { interval, pValue } = pairedBootstrap(a, b, { samples: 200, seed: run });
      if (interval[0] <= 0 && interval[1] >= 0) covered++;
      if (pValue < 0.05) rejected++;
    }
    // Four standard errors of a rate of 0.95 over 200 runs.
    expect(covered / runs).toBeGreaterThan(0.95 - 4 * Math.sqrt((0.95 * 0.05) / runs));
    expect(rejected / runs).toBeLessThan(0.05 + 4 * Math.sqrt((0.95 * 0.05) / runs));
  });

  it("a bootstrap takes any score of sums, BLEU for one, and wants the same items", () => {
    const bleu = new Bleu();
    const reference = "the cat sat on the mat today";
    const texts = [
      ["the cat sat on a mat today", reference],
      ["a dog sat on the mat today", reference],
    ];
    const row = (system: number) => texts.map((pair) => bleu.statistics(pair[system], reference));
    const score = (sums: readonly number[]) => bleu.score(sums).score;
    const result = pairedBootstrap(row(0), row(1), { score, samples: 50 });
    expect(result.b).toBeCloseTo(100, 9);
    expect(result.interval[0]).toBeGreaterThan(0);
    expect(() => pairedBootstrap([[1]], [[1], [2]])).toThrow(/same items/);
    expect(() => pairedBootstrap([], [])).toThrow(/at least one/);
  });
});

describe("kiln verify", () => {
  const golden = new URL("fixtures/golden/", import.meta.url).pathname;
  const folder = mkdtempSync(join(tmpdir(), "kiln-metrics-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  it("checks metrics and ROUGE against golden numbers, and fails where one is off", async () => {
    const read = (file: string) => JSON.parse(readFileSync(join(golden, file), "utf8"));
    const failures = async (metrics: unknown, rouges: unknown) => {
      writeFileSync(join(folder, "metrics.json"), JSON.stringify(metrics));
      writeFileSync(join(folder, "rouge.json"), JSON.stringify(rouges));
      const lines: string[] = [];
      expect(await verify(folder, { write: (line) => lines.push(line) })).toMatchObject({ skipped: 0 });
      return lines.filter((line) => line.includes("FAILED")).map((line) => line.split(" ")[0]);
    };
    const [metrics, rouges] = [read("metrics.json"), read("rouge.json")];
    expect(await failures(metrics, rouges)).toEqual([]);
    metrics.sacrebleu.precisions[2] += 2e-6;
    metrics.classification.confusion[1][2]++;
    metrics.ter += 1e-5;
    rouges.pairs[3].stemmed.rougeLsum[1] += 1e-5;
    rouges.stems.abbey = "abbei";
    const wrong = ["metrics/bleu", "metrics/ter", "metrics/classification", "rouge/stemmed", "rouge/stems"];
    expect(await failures(metrics, rouges)).toEqual(wrong);
  });
});
