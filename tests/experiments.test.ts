import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { proportionsTest } from "../core/statistics/significance.ts";
import { armOf, bucket } from "../serve/app/experiments/bucket.ts";
import { rankModels, type Vote } from "../serve/app/experiments/ranking.ts";
import {
  fisherTwoSided,
  fixedTest,
  newcombeInterval,
  requiredPerArm,
  sampleRatio,
} from "../serve/app/experiments/rates.ts";
import { SequentialTest } from "../serve/app/experiments/sequential.ts";

type Row = [number, number, number, number, number];
/**
 * tests/fixtures/experiments_scipy.json, by scipy 1.17.1 on random counts:
 *   fisher      stats.fisher_exact([[s, n - s], [t, m - t]]).pvalue
 *   ratio       stats.chisquare([a, b], [(a + b) * w, (a + b) * (1 - w)]).pvalue
 *   sequential  with d = t / m - s / n and v = p(1 - p)(1/n + 1/m) of the pooled p: the inverse at 0 of
 *               ratio(at) = integrate.quad(lambda x: norm.pdf(d, x, v ** 0.5) * norm.pdf(x, at, 0.1)) / norm.pdf(d, at, v ** 0.5),
 *               and where optimize.brentq finds ratio(at) = 20 below and above d
 *   ranking     optimize.minimize of the negative log-likelihood of votes (a, b, score), each model with a tie against strength 1
 */
const scipy: {
  fisher: Row[];
  ratio: Row[];
  sequential: [...Row, number, number][];
  ranking: { votes: [number, number, Vote["score"]][]; ratings: number[] }[];
} = JSON.parse(readFileSync(new URL("fixtures/experiments_scipy.json", import.meta.url), "utf8"));

const rate = (successes: number, count: number) => ({ successes, count });

describe("buckets", () => {
  it("are those of the specification, even, and independent between experiments", () => {
    const found = [
      ["exp1", "u1"],
      ["exp1", "u2"],
      ["exp1", "u3"],
      ["exp2", "u1"],
      ["exp1", "ü"],
    ].map(([experiment, unit]) => bucket(experiment, unit).toFixed(6));
    expect(found).toEqual(["0.218347", "0.444211", "0.558216", "0.207838", "0.121653"]);
    const low = (experiment: string) =>
      Array.from({ length: 10_000 }, (_, i) => bucket(experiment, `u${i}`) < 0.5);
    const [e, other] = [low("e"), low("f")];
    expect(e.filter(Boolean)).toHaveLength(4986);
    const agreeing = e.filter((value, i) => value === other[i]).length;
    // Four standard errors of a fair coin.
    expect(Math.abs(agreeing - 5000)).toBeLessThan(200);
  });

  it("give each arm its share, and other weights move only what changes hands", () => {
    const weights = fc
      .array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 5 })
      .filter((w) => w.some(Boolean));
    fc.assert(
      fc.property(weights, fc.integer({ min: 0, max: 2 ** 30 - 1 }), (weights, n) => {
        const arm = armOf(n / 2 ** 30, weights);
        expect(weights[arm]).toBeGreaterThan(0);
        const total = weights.reduce((sum, weight) => sum + weight);
        const before = weights.slice(0, arm).reduce((sum, weight) => sum + weight, 0) / total;
        expect(n / 2 ** 30).toBeGreaterThanOrEqual(before - 1e-12);
        expect(n / 2 ** 30).toBeLessThan(before + weights[arm] / total + 1e-12);
      }),
    );
    const units = Array.from({ length: 2000 }, (_, i) => bucket("e", `u${i}`));
    const moved = units.filter((u) => armOf(u, [50, 50]) !== armOf(u, [60, 40]));
    expect(moved.every((u) => u >= 0.5 && u < 0.6)).toBe(true);
    expect(moved.length).toBeGreaterThan(100);
    // 10 shares of a tenth sum to less than 1.
    expect(armOf(1 - 2 ** -53, Array(10).fill(1))).toBe(9);
    expect(armOf(0.999, [1, 0])).toBe(0);
  });
});

describe("rates", () => {
  it("are told apart as the specification says", () => {
    const found = (
      [
        [50, 100, 62, 100],
        [480, 1000, 530, 1000],
        [8, 10, 3, 10],
      ] as const
    ).map(([s, n, t, m]) => {
      const { z, pValue } = proportionsTest(rate(s, n), rate(t, m));
      return `${z.toFixed(4)} ${pValue.toFixed(5)}`;
    });
    expect(found).toEqual(["1.7094 0.08738", "2.2362 0.02534", "-2.2473 0.02462"]);
    expect(fixedTest(rate(50, 100), rate(62, 100))).toMatchObject({ test: "z" });
    // 4.5 of each arm of ten are expected not to be up.
    const small = fixedTest(rate(8, 10), rate(3, 10))!;
    expect(small.test).toBe("fisher");
    expect(small.pValue).toBeCloseTo(0.0698, 4);
    expect(fixedTest(rate(0, 0), rate(3, 10))).toBeNull();
  });

  it("differ by Newcombe's intervals, those of his table II", () => {
    const table = [
      [48, 80, 56, 70, 0.0524, 0.3339],
      [3, 10, 9, 10, 0.1705, 0.809],
      [2, 7, 6, 7, 0.0582, 0.8062],
      [0, 29, 5, 56, -0.0381, 0.1926],
      [0, 20, 0, 10, -0.1611, 0.2775],
      [0, 10, 0, 10, -0.2775, 0.2775],
      [0, 20, 10, 10, 0.6791, 1],
      [0, 10, 10, 10, 0.6075, 1],
    ];
    for (const [s, n, t, m, low, high] of table) {
      const found = newcombeInterval(rate(s, n), rate(t, m));
      expect(found.map((end) => Number(end.toFixed(4)))).toEqual([low, high]);
    }
  });

  it("need as many votes as the specification says", () => {
    expect(
      [
        [0.5, 0.6],
        [0.7, 0.8],
        [0.5, 0.55],
        [0.6, 0.5],
      ].map(([p, q]) => requiredPerArm(p, q)),
    ).toEqual([388, 294, 1565, 388]);
    expect(requiredPerArm(0.5, 0.5)).toBe(Number.POSITIVE_INFINITY);
  });

  it("have Fisher's test and the sample ratio of scipy", () => {
    for (const [s, n, t, m, p] of scipy.fisher)
      expect(fisherTwoSided(rate(s, n), rate(t, m))).toBeCloseTo(p, 10);
    for (const [a, b, v, w, p] of scipy.ratio) {
      const found = sampleRatio([a, b], [v, w]);
      expect(found.pValue).toBeCloseTo(p, 10);
      expect(found.ok).toBe(p >= 0.001);
    }
    expect(sampleRatio([0, 0], [1, 1])).toEqual({ pValue: 1, ok: true });
  });
});

describe("the sequential test", () => {
  it("has the mixture's ratio and the interval that it does not reject, by numerical integration", () => {
    expect(scipy.sequential.length).toBeGreaterThan(10);
    for (const [s, n, t, m, p, low, high] of scipy.sequential) {
      const { pValue, interval, significant } = new SequentialTest().look(rate(s, n), rate(t, m));
      expect(Math.log(pValue)).toBeCloseTo(Math.log(Math.min(1, p)), 6);
      expect(interval![0]).toBeCloseTo(Math.max(-1, low), 7);
      expect(interval![1]).toBeCloseTo(Math.min(1, high), 7);
      expect(significant).toBe(p < 0.05);
    }
  });

  it("never takes back what it found, and says the same by its p-value and its interval", () => {
    const vote = fc.tuple(fc.boolean(), fc.boolean());
    fc.assert(
      fc.property(
        fc.array(vote, { minLength: 1, maxLength: 300 }),
        fc.integer({ min: 1, max: 40 }),
        (votes, every) => {
          const test = new SequentialTest();
          const [a, b] = [rate(0, 0), rate(0, 0)];
          let [last, width] = [1, 2];
          for (const [i, [up, down]] of votes.entries()) {
            a.successes += Number(up);
            b.successes += Number(down);
            a.count = b.count = i + 1;
            if (i % every > 0) continue;
            const { pValue, interval, significant } = test.look(a, b);
            expect(pValue).toBeLessThanOrEqual(last);
            last = pValue;
            if (interval === null) continue;
            expect(interval[1] - interval[0]).toBeLessThanOrEqual(width + 1e-12);
            width = interval[1] - interval[0];
            expect(significant).toBe(interval[0] > 0 || interval[1] < 0);
          }
        },
      ),
    );
  });

  it("says nothing where there is nothing to say", () => {
    const test = new SequentialTest();
    const nothing = { interval: null, pValue: 1, significant: false };
    expect(test.look(rate(0, 0), rate(3, 3))).toEqual({ difference: null, ...nothing });
    expect(test.look(rate(3, 3), rate(5, 5))).toEqual({ difference: 0, ...nothing });
  });
});

describe("an arena's board", () => {
  it("has the strengths that maximise the likelihood", () => {
    for (const { votes, ratings } of scipy.ranking) {
      const named = votes.map(([a, b, score]) => ({ a: `m${a}`, b: `m${b}`, score }));
      const found = new Map(rankModels(named, { samples: 0 }).map(({ model, rating }) => [model, rating]));
      for (const [i, want] of ratings.entries()) expect(found.get(`m${i}`)).toBeCloseTo(want, 2);
    }
  });

  it("is ordered, with intervals that hold the rating and are the same each time, also for one that always won", () => {
    const votes = Array.from({ length: 60 }, (_, i): Vote => {
      const pair = [
        ["a", "b"],
        ["b", "c"],
        ["a", "c"],
      ][i % 3];
      return { a: pair[0], b: pair[1], score: i % 12 === 1 ? 0 : 1 };
    });
    const board = rankModels(votes, { samples: 200 });
    expect(board.map(({ model, votes }) => [model, votes])).toEqual([
      ["a", 40],
      ["b", 40],
      ["c", 40],
    ]);
    for (const { rating, interval } of board) {
      expect(interval[0]).toBeLessThanOrEqual(rating);
      expect(interval[1]).toBeGreaterThanOrEqual(rating);
      expect(Number.isFinite(rating)).toBe(true);
    }
    expect(board[1].interval[1] - board[1].interval[0]).toBeGreaterThan(50);
    expect(rankModels(votes, { samples: 200 })).toEqual(board);
    expect(rankModels([])).toEqual([]);
  });
});
