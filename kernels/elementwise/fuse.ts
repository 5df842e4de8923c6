import { type Expr, name, names, substitute } from "./expr.ts";
import { maxInputs } from "./lower.ts";
import type { Program } from "./program.ts";

// What a compiler needs to make one pass of a chain of elementwise calls.
export { derivative } from "./derive.ts";
export { call, cost, type Expr, name, names, number, parse, print, substitute } from "./expr.ts";
export { elementwiseProgram, type FusedAttrs, fused } from "./op.ts";
export type { Program } from "./program.ts";

/**
 * `outer` with its input number `at` computed in place by `inner`: the inputs of the result are the outer ones with
 * the inner ones in place of number `at`; the scalars are the outer ones, then the inner ones.
 *
 * @param outerInputs number of outer's inputs
 * @returns null where the values would change (an intermediate result that rounds, another arithmetic) or too many
 *   tensors would be read
 */
export function fuseInto(outer: Program, at: number, inner: Program, outerInputs: number): Program | null {
  const innerInputs = inputCount(inner.expr);
  if (inner.compute !== outer.compute || inner.dtype !== inner.compute) return null;
  if (outerInputs - 1 + innerInputs > maxInputs || outer.scalars.length + inner.scalars.length > 8)
    return null;
  const moved = new Map<string, Expr>();
  for (let i = 0; i < innerInputs; i++) moved.set(`x${i}`, name(`x${at + i}`));
  inner.scalars.forEach((_, i) => {
    moved.set(`s${i}`, name(`s${outer.scalars.length + i}`));
  });
  const by = new Map<string, Expr>([[`x${at}`, substitute(inner.expr, moved)]]);
  for (let i = at + 1; i < outerInputs; i++) by.set(`x${i}`, name(`x${i - 1 + innerInputs}`));
  return {
    expr: substitute(outer.expr, by),
    scalars: [...outer.scalars, ...inner.scalars],
    compute: outer.compute,
    dtype: outer.dtype,
  };
}

/** One more than the highest input that an expression reads. */
function inputCount(e: Expr): number {
  return Math.max(0, ...[...names(e)].filter((n) => n.startsWith("x")).map((n) => Number(n.slice(1)) + 1));
}
