import { philox4x32, toUnit } from "../../core/random.ts";

/**
 * A uniform number in [0, 1) without state: it is a function of (seed, choice, position), so a token does not depend on
 * what else was sampled before or beside it, and a sequence that is computed again draws the same.
 */
export function uniform(seed: readonly [number, number], choice: number, position: number): number {
  return toUnit(philox4x32(seed, [position, choice, 0, 0])[0]);
}
