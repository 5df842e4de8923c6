import { createHash } from "node:crypto";

/**
 * Where a unit (a user, or a conversation) falls in an experiment, in [0, 1): the first 53 bits of SHA-256 of both names. The
 * same on every machine and at every time, even over all units, and independent from one experiment to another.
 */
export function bucket(experiment: string, unit: string): number {
  const first = createHash("sha256").update(`${experiment}\0${unit}`).digest().readBigUInt64BE();
  return Number(first >> 11n) / 2 ** 53;
}

/**
 * The number of the arm that a bucket belongs to: the first whose weights up to it exceed the bucket, as shares of their sum.
 * Other weights move only the units of the interval that changes hands.
 */
export function armOf(bucket: number, weights: readonly number[]): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let upTo = 0;
  const found = weights.findIndex((weight) => {
    upTo += weight / total;
    return bucket < upTo;
  });
  // The shares may sum to a little less than 1.
  return found >= 0 ? found : weights.findLastIndex((weight) => weight > 0);
}
