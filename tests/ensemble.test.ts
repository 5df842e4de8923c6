import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Chrf } from "../core/statistics/chrf.ts";
import { type Candidate, chooseBest, finalAnswer } from "../serve/app/ensemble/choose.ts";
import {
  type Answered,
  areaUnderCurve,
  fitQuality,
  HEURISTIC,
  qualityOf,
  textTraits,
} from "../serve/app/ensemble/quality.ts";
import { type ChainRow, fitThreshold, pointAt } from "../serve/app/ensemble/threshold.ts";
import {
  atTemperature,
  fitTemperature,
  hardVote,
  type Labelled,
  likeliest,
  negativeLogLikelihood,
  softVote,
  weightsOf,
} from "../serve/app/ensemble/vote.ts";

/** Uniform numbers that are the same each time. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

const probabilities = fc
  .array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: 3, maxLength: 3 })
  .map((values) => values.map((value) => value / values.reduce((a, b) => a + b)));
const labelled = fc.record({ probabilities, label: fc.nat(2) });

describe("temperature", () => {
  it("is found again where probabilities were sharpened or flattened by it", () => {
    for (const planted of [0.5, 1, 2.5]) {
      const next = numbers(7);
      const rows = Array.from({ length: 8000 }, (): Labelled => {
        const drawn = [next() ** 3, next() ** 3, next() ** 3].map((x) => x + 0.01);
        const truth = drawn.map((x) => x / (drawn[0]! + drawn[1]! + drawn[2]!));
        const at = next();
        const label = at < truth[0]! ? 0 : at < truth[0]! + truth[1]! ? 1 : 2;
        return { probabilities: atTemperature(truth, 1 / planted), label };
      });
      const { temperature, nll } = fitTemperature(rows);
      expect(Math.abs(temperature / planted - 1)).toBeLessThan(0.05);
      expect(nll).toBeLessThanOrEqual(negativeLogLikelihood(rows));
    }
  });

  it("none other has a lower loss, and the likeliest class stays (property)", () => {
    fc.assert(
      fc.property(fc.array(labelled, { minLength: 1, maxLength: 12 }), (rows) => {
        const { temperature, nll } = fitTemperature(rows);
        for (let power = -12; power <= 12; power++) {
          const other = Math.min(20, Math.max(1 / 20, 2 ** (power / 3)));
          expect(nll).toBeLessThanOrEqual(negativeLogLikelihood(rows, other) + 1e-6);
        }
        for (const row of rows) {
          const scaled = atTemperature(row.probabilities, temperature);
          expect(scaled[likeliest(row.probabilities)]).toBe(Math.max(...scaled));
        }
      }),
    );
  });
});

describe("votes of classifiers", () => {
  it("weights are in proportion to exp(-NLL)", () => {
    const weights = weightsOf([0.1, 0.1 + Math.log(2), 0.1 + Math.log(4)]);
    for (const [i, expected] of [4 / 7, 2 / 7, 1 / 7].entries()) expect(weights[i]).toBeCloseTo(expected, 12);
    expect(
      softVote(
        [
          [0.5, 0.5],
          [1, 0],
          [0, 1],
        ],
        weights,
      )[0],
    ).toBeCloseTo(2 / 7 + 2 / 7, 12);
  });

  it.each([
    [
      "the majority wins against a surer one",
      [
        [0.51, 0.49],
        [0.51, 0.49],
        [0.01, 0.99],
      ],
      [0.1, 0.1, 0.8],
      0,
    ],
    [
      "a tie goes to the higher soft vote",
      [
        [0.6, 0.4],
        [0.3, 0.7],
      ],
      [0.5, 0.5],
      1,
    ],
    [
      "and then to the first class",
      [
        [0.7, 0.3],
        [0.3, 0.7],
      ],
      [0.5, 0.5],
      0,
    ],
    [
      "three classes, each with a vote",
      [
        [0.4, 0.3, 0.3],
        [0.1, 0.5, 0.4],
        [0.1, 0.2, 0.7],
      ],
      [1 / 3, 1 / 3, 1 / 3],
      2,
    ],
  ] as const)("hard: %s", (_, members, weights, winner) => {
    const vote = hardVote(members, weights);
    expect(likeliest(vote)).toBe(winner);
    expect(vote.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
  });

  it("hard: the winner is as the rule says for any members (property)", () => {
    fc.assert(
      fc.property(fc.array(probabilities, { minLength: 1, maxLength: 6 }), (members) => {
        const weights = members.map(() => 1 / members.length);
        const soft = softVote(members, weights);
        const votes = [0, 1, 2].map((label) => members.filter((one) => likeliest(one) === label).length);
        const byRule = [0, 1, 2].sort((a, b) => votes[b]! - votes[a]! || soft[b]! - soft[a]! || a - b)[0];
        expect(likeliest(hardVote(members, weights))).toBe(byRule);
      }),
    );
  });
});

const candidate = (text: string, meanLogprob: number | null = null): Candidate => ({ text, meanLogprob });

describe("the best of several answers", () => {
  it("mbr: the one that is most like the others, by a recount (property)", () => {
    const text = fc.array(fc.constantFrom("the", "a", "cat", "dog", "sat", "ran", "mat"), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(fc.array(text, { minLength: 1, maxLength: 5 }), (texts) => {
        const candidates = texts.map((words) => candidate(words.join(" ")));
        const means = candidates.map(({ text: own }, i) => {
          let sum = 0;
          for (const [j, other] of candidates.entries()) {
            const chrf = new Chrf();
            chrf.add(own, other.text);
            if (i !== j) sum += chrf.value();
          }
          return sum;
        });
        const best = chooseBest(candidates, "mbr");
        expect(means[best]).toBeGreaterThanOrEqual(Math.max(...means) - 1e-9);
      }),
      { numRuns: 50 },
    );
    const odd = ["the cat sat on the mat", "a stock market report", "the cat sat on a mat"];
    expect(
      chooseBest(
        odd.map((one) => candidate(one)),
        "mbr",
      ),
    ).not.toBe(1);
  });

  it("rerank: the likeliest, unless it repeats itself or is unusually short", () => {
    const fine = "one two three four five six seven eight";
    const again = "one two three four one two three four";
    expect(textTraits(again)).toEqual({ repetition: 1 - 4 / 5, distinct: 4 / 7 });
    expect(chooseBest([candidate(fine, -0.5), candidate(fine, -0.4)], "rerank")).toBe(1);
    expect(chooseBest([candidate(fine, -0.5), candidate(again, -0.45)], "rerank")).toBe(0);
    const short = [candidate(fine, -0.5), candidate(fine, -0.5), candidate("one", -0.35)];
    expect(chooseBest(short, "rerank")).toBe(0); // ln(39) / 10 = 0.37 is more than 0.15
  });

  it("vote: the most frequent final answer, of those the likeliest", () => {
    const texts = [
      "6 times 7:\nThe answer is 42.",
      "It is\n**41**",
      "So, the result = 42",
      "Answer: 41",
      "answer: 42 ",
    ];
    expect(texts.map(finalAnswer)).toEqual(["42", "41", "42", "41", "42"]);
    const logprobs = [-0.9, -0.1, -0.2, -0.1, -0.5];
    expect(
      chooseBest(
        texts.map((text, i) => candidate(text, logprobs[i]!)),
        "vote",
      ),
    ).toBe(2);
    expect(chooseBest([candidate("a"), candidate("b")], "vote")).toBe(0);
  });
});

describe("quality of an answer", () => {
  const answer: Answered = {
    question: "What did the little dog do in the garden?",
    text: "The little dog ran through the garden and found a red ball.",
    ...{ meanLogprob: -0.5, endedProperly: true },
  };

  it("is higher for one that is likely, ends, and says something", () => {
    const worse: Partial<Answered>[] = [
      { meanLogprob: -3 },
      { endedProperly: false },
      { text: "and and and and and and and and and and and" },
      { text: "Stocks fell on Monday as bond yields rose again." },
    ];
    for (const change of worse) expect(qualityOf({ ...answer, ...change })).toBeLessThan(qualityOf(answer));
    expect(fitQuality(Array(199).fill({ ...answer, good: true }))).toBe(HEURISTIC);
  });

  it("is fitted on ratings: what makes them good is found, which the guess does not know", () => {
    const next = numbers(3);
    // These people like answers that are not finished.
    const rated = Array.from({ length: 600 }, () => {
      const endedProperly = next() < 0.5;
      return {
        ...answer,
        meanLogprob: -2 * next(),
        endedProperly,
        good: next() < (endedProperly ? 0.2 : 0.8),
      };
    });
    const [fit, check] = [rated.slice(0, 400), rated.slice(400)];
    const model = fitQuality(fit);
    const auc = (of: typeof model) =>
      areaUnderCurve(check.map((one) => ({ score: qualityOf(one, of), good: one.good })))!;
    expect(model.kind).toBe("fitted");
    expect(auc(model)).toBeGreaterThan(0.7);
    expect(auc(HEURISTIC)).toBeLessThan(0.5);
    // At the maximum of the likelihood the mean prediction is the mean rating.
    const mean = fit.reduce((sum, one) => sum + qualityOf(one, model), 0) / fit.length;
    expect(mean).toBeCloseTo(fit.filter(({ good }) => good).length / fit.length, 6);
  });

  it("the area under the curve equals the count of pairs (property)", () => {
    const row = fc.record({ score: fc.integer({ min: 0, max: 5 }), good: fc.boolean() });
    fc.assert(
      fc.property(fc.array(row, { maxLength: 30 }), (rows) => {
        const pairs = rows.flatMap((a) =>
          a.good ? rows.filter((b) => !b.good).map((b) => Math.sign(a.score - b.score)) : [],
        );
        const area = areaUnderCurve(rows);
        if (pairs.length === 0) expect(area).toBe(null);
        else
          expect(area).toBeCloseTo(
            pairs.reduce((sum: number, sign) => sum + (sign + 1) / 2, 0) / pairs.length,
            12,
          );
      }),
    );
  });
});

describe("the threshold of a route", () => {
  const rowOf = (confidence: number, right: boolean): ChainRow => [
    { confidence, quality: Number(right), costMicrousd: 1 },
    { confidence: null, quality: 1, costMicrousd: 100 },
  ];

  it("escalates what it must and no more, where confidence tells who is right", () => {
    const next = numbers(11);
    // Right with the probability that it claims.
    const rows = Array.from({ length: 2000 }, () => {
      const confidence = next();
      return rowOf(confidence, next() < confidence);
    });
    const report = fitThreshold(rows);
    const fitted = rows.filter((_, i) => i % 2 === 0);
    expect(report.ece).toBeLessThan(0.04);
    expect(pointAt(fitted, report.tau).quality).toBeGreaterThanOrEqual(0.99);
    // The next lower threshold is not enough.
    const lower = fitted.map(([first]) => first!.confidence!).filter((c) => c + 1e-9 < report.tau);
    expect(pointAt(fitted, Math.max(...lower)).quality).toBeLessThan(0.99);
    expect(report.held_out.escalated).toBeLessThan(1);
    expect(report.held_out.quality).toBeGreaterThan(0.97);
    expect(report.always_first).toMatchObject({ escalated: 0, cost_microusd: 1 });
    expect(report.always_last).toMatchObject({ escalated: 1, quality: 1, cost_microusd: 100 });
    for (const [i, point] of report.curve.entries())
      if (i > 0) expect(point.escalated).toBeGreaterThanOrEqual(report.curve[i - 1]!.escalated);
  });

  it("is 0 where the first model is as good, and as high as it goes where it is always wrong", () => {
    const good = Array.from({ length: 20 }, (_, i) => rowOf(i / 20, true));
    expect(fitThreshold(good)).toMatchObject({
      tau: 0,
      held_out: { escalated: 0, quality: 1, within: true },
    });
    const bad = Array.from({ length: 20 }, (_, i) => rowOf(i / 20, false));
    expect(fitThreshold(bad).held_out.escalated).toBeGreaterThanOrEqual(0.9);
  });

  it("counts what each text costs on its way through three models", () => {
    const row: ChainRow = [
      { confidence: 0.2, quality: 0, costMicrousd: 1 },
      { confidence: 0.6, quality: 0.5, costMicrousd: 10 },
      { confidence: null, quality: 1, costMicrousd: 100 },
    ];
    expect([0.1, 0.5, 0.9].map((tau) => pointAt([row], tau))).toEqual([
      { tau: 0.1, escalated: 0, quality: 0, cost_microusd: 1 },
      { tau: 0.5, escalated: 1, quality: 0.5, cost_microusd: 11 },
      { tau: 0.9, escalated: 1, quality: 1, cost_microusd: 111 },
    ]);
  });

  it("the calibration error is the gap between what is claimed and what is right", () => {
    // 0.85 is claimed, and half of them are right.
    const rows = Array.from({ length: 40 }, (_, i) => rowOf(0.85, i % 4 < 2));
    expect(fitThreshold(rows).ece).toBeCloseTo(0.35, 12);
  });
});
