import seedrandom from "seedrandom";
import { expect, it } from "vitest";
import { proportionsTest } from "../core/statistics/significance.ts";
import { SequentialTest } from "../serve/app/experiments/sequential.ts";

const [runs, looks, votes] = [1500, 40, 50];

/** Experiments that somebody looks at 40 times, up to 2,000 votes per arm: when the tests first called a difference one. */
function simulate(p: number, q: number) {
  const random = seedrandom.alea(`experiments ${p} ${q}`);
  const found: number[] = [];
  let [naive, covered] = [0, 0];
  for (let run = 0; run < runs; run++) {
    const test = new SequentialTest();
    const [a, b] = [p, q].map(() => ({ successes: 0, count: 0 }));
    let [first, rejected, holds]: [number | null, boolean, boolean] = [null, false, true];
    for (let look = 1; look <= looks; look++) {
      for (let i = 0; i < votes; i++) {
        a.successes += Number(random() < p);
        b.successes += Number(random() < q);
      }
      a.count = b.count = look * votes;
      const { significant, interval } = test.look(a, b);
      if (significant) first ??= a.count;
      if (interval === null || interval[0] > q - p || interval[1] < q - p) holds = false;
      rejected ||= proportionsTest(a, b).pValue < 0.05;
    }
    if (first !== null) found.push(first);
    naive += Number(rejected);
    covered += Number(holds);
  }
  const median = found.sort((x, y) => x - y)[Math.floor(found.length / 2)];
  return { share: found.length / runs, median, naive: naive / runs, covered: covered / runs };
}

/** Four standard errors of the difference of two simulations of this share. */
const near = (share: number, expected: number) =>
  expect(Math.abs(share - expected)).toBeLessThan(4 * Math.sqrt((2 * expected * (1 - expected)) / runs));

it.each([
  [0.5, 0.022, 0.32],
  [0.8, 0.025, 0.3],
])(
  "equal arms at %d: the sequential test errs rarely, a test at each look in a third of all experiments",
  (p, share, naive) => {
    const found = simulate(p, p);
    near(found.share, share);
    near(found.naive, naive);
    expect(found.share).toBeLessThan(0.05);
    // Whoever finds no difference has an interval that holds it, and the other way round.
    expect(found.covered).toBeCloseTo(1 - found.share, 9);
  },
);

it.each([
  [0.5, 0.6, 1, 400],
  [0.7, 0.8, 1, 350],
  [0.5, 0.55, 0.61, 1100],
])("%d against %d is found as often and as early as in the specification", (p, q, share, median) => {
  const found = simulate(p, q);
  if (share === 1) expect(found.share).toBeGreaterThan(0.995);
  else near(found.share, share);
  // A median of times between 50 and 2,000 in steps of 50 is off by a step, or where few are found by their own error.
  expect(Math.abs(found.median - median)).toBeLessThanOrEqual(share === 1 ? 50 : 150);
  expect(found.covered).toBeGreaterThan(0.95);
});
