import { type DType, integerRange, isFloat } from "../../core/dtype.ts";
import { Tensor } from "../../core/tensor.ts";
import { castTo } from "./op.ts";
import type { Operand } from "./table.ts";
import * as rows from "./table.ts";

export * from "./table.ts";

export const eq = (a: Operand, b: Operand) => compare("eq", a, b);
export const ne = (a: Operand, b: Operand) => compare("ne", a, b);
export const lt = (a: Operand, b: Operand) => compare("lt", a, b);
export const le = (a: Operand, b: Operand) => compare("le", a, b);
export const gt = (a: Operand, b: Operand) => compare("gt", a, b);
export const ge = (a: Operand, b: Operand) => compare("ge", a, b);

const comparisons = { eq: rows.eq, ne: rows.ne, lt: rows.lt, le: rows.le, gt: rows.gt, ge: rows.ge };
const mirrored = { eq: "eq", ne: "ne", lt: "gt", le: "ge", gt: "lt", ge: "le" } as const;
type Comparison = keyof typeof mirrored;

/** Integers compare exactly with any number, also with one that their dtype does not hold. */
function compare(op: Comparison, a: Operand, b: Operand): Tensor {
  if (typeof a === "number" && b instanceof Tensor) return compare(mirrored[op], b, a);
  if (typeof b !== "number" || !(a instanceof Tensor) || isFloat(a.dtype)) return comparisons[op](a, b);
  const { low, high } = integerRange[a.dtype === "u32" ? "u32" : "i32"];
  if (Number.isInteger(b) && b >= low && b <= high) return comparisons[op](a, b);
  // No integer equals b; a < b is a <= floor(b), and a > b is the opposite.
  const below = Math.floor(b);
  if (op === "eq" || op === "ne" || Number.isNaN(b) || below < low || below >= high) {
    const always = op === "ne" || (b > high && op[0] === "l") || (b < low && op[0] === "g");
    return comparisons[always ? "eq" : "ne"](a, a);
  }
  return comparisons[op[0] === "l" ? "le" : "gt"](a, below);
}

/** a held within [min, max], bounds included; either may be left out. An integer stays one, and exact, between whole bounds. */
export function clamp(
  a: Tensor,
  min: Operand = Number.NEGATIVE_INFINITY,
  max: Operand = Number.POSITIVE_INFINITY,
): Tensor {
  if (!(a instanceof Tensor) || isFloat(a.dtype)) return rows.clamp(a, min, max);
  const { low, high } = integerRange[a.dtype === "u32" ? "u32" : "i32"];
  // A bound beyond all integers holds nothing back.
  const lower = typeof min === "number" && min < low ? low : min;
  const upper = typeof max === "number" && max > high ? high : max;
  return rows.clamp(a, lower, upper);
}

const cheapPowers: Readonly<Record<string, (a: Tensor) => Tensor>> = {
  "2": rows.square,
  "0.5": rows.sqrt,
  "-0.5": rows.rsqrt,
  "-1": rows.reciprocal,
};

/** a to the power b. */
export function pow(a: Operand, b: Operand): Tensor {
  const cheap = typeof b === "number" && typeof a !== "number" ? cheapPowers[`${b}`] : undefined;
  return cheap ? cheap(a as Tensor) : rows.pow(a, b);
}

/** The values in another dtype; the tensor itself where it has it already. */
export const cast = (a: Tensor, dtype: DType): Tensor => castTo(a, dtype);
