import { type DType, integerRange, isFloat } from "../../core/dtype.ts";
import { Tensor } from "../../core/tensor.ts";
import { castTo, elementwise } from "./op.ts";

/** An operand: a tensor, or a number, which adapts to the other operand's dtype. */
export type Operand = Tensor | number;

const unary = (op: string) => (a: Tensor) => elementwise(op, [a]);
const binary = (op: string) => (a: Operand, b: Operand) => elementwise(op, [a, b]);

// What each computes, with its dtype rule, stands in table.ts. Shapes broadcast.
export const copy = unary("copy");
export const add = binary("add");
export const sub = binary("sub");
export const mul = binary("mul");
export const div = binary("div");
export const maximum = binary("maximum");
export const minimum = binary("minimum");
export const neg = unary("neg");
export const abs = unary("abs");
export const sign = unary("sign");
export const floor = unary("floor");
export const round = unary("round");
export const square = unary("square");
export const reciprocal = unary("reciprocal");
export const exp = unary("exp");
export const expm1 = unary("expm1");
export const log = unary("log");
export const log1p = unary("log1p");
export const sqrt = unary("sqrt");
export const rsqrt = unary("rsqrt");
export const sin = unary("sin");
export const cos = unary("cos");
export const tanh = unary("tanh");
export const sigmoid = unary("sigmoid");
export const relu = unary("relu");
export const silu = unary("silu");
export const softplus = unary("softplus");
export const erf = unary("erf");
export const gelu = unary("gelu");
export const geluTanh = unary("gelu_tanh");
export const isnan = unary("isnan");
export const isfinite = unary("isfinite");
export const logicalNot = unary("logical_not");
export const logicalAnd = binary("logical_and");
export const logicalOr = binary("logical_or");
export const eq = (a: Operand, b: Operand) => compare("eq", a, b);
export const ne = (a: Operand, b: Operand) => compare("ne", a, b);
export const lt = (a: Operand, b: Operand) => compare("lt", a, b);
export const le = (a: Operand, b: Operand) => compare("le", a, b);
export const gt = (a: Operand, b: Operand) => compare("gt", a, b);
export const ge = (a: Operand, b: Operand) => compare("ge", a, b);

const mirrored = { eq: "eq", ne: "ne", lt: "gt", le: "ge", gt: "lt", ge: "le" } as const;
type Comparison = keyof typeof mirrored;

/** Integers compare exactly with any number, also with one that their dtype does not hold. */
function compare(op: Comparison, a: Operand, b: Operand): Tensor {
  if (typeof a === "number" && b instanceof Tensor) return compare(mirrored[op], b, a);
  if (typeof b !== "number" || !(a instanceof Tensor) || isFloat(a.dtype)) return elementwise(op, [a, b]);
  const { low, high } = integerRange[a.dtype === "u32" ? "u32" : "i32"];
  if (Number.isInteger(b) && b >= low && b <= high) return elementwise(op, [a, b]);
  // No integer equals b; a < b is a <= floor(b), and a > b is the opposite.
  const below = Math.floor(b);
  if (op === "eq" || op === "ne" || Number.isNaN(b) || below < low || below >= high) {
    const always = op === "ne" || (b > high && op[0] === "l") || (b < low && op[0] === "g");
    return elementwise(always ? "eq" : "ne", [a, a]);
  }
  return elementwise(op[0] === "l" ? "le" : "gt", [a, below]);
}

/** silu(gate) * up in one pass. */
export const swiglu = (gate: Tensor, up: Tensor) => elementwise("swiglu", [gate, up]);

/** Binary cross-entropy of sigmoid(logit) against target in [0, 1], per element. */
export const bceWithLogits = (logit: Tensor, target: Operand) =>
  elementwise("bce_with_logits", [logit, target]);

/** a + weight (b - a). */
export const lerp = (a: Tensor, b: Operand, weight: Operand) => elementwise("lerp", [a, b, weight]);

/** a where condition (bool) holds, else b. */
export const where = (condition: Tensor, a: Operand, b: Operand) => elementwise("where", [condition, a, b]);

/** a with `value` where mask (bool) holds. */
export const maskedFill = (a: Tensor, mask: Tensor, value: Operand) =>
  elementwise("masked_fill", [a, mask, value]);

/** a held within [min, max], bounds included; either may be left out. An integer stays one, and exact, between whole bounds. */
export function clamp(
  a: Tensor,
  min: Operand = Number.NEGATIVE_INFINITY,
  max: Operand = Number.POSITIVE_INFINITY,
): Tensor {
  if (!(a instanceof Tensor) || isFloat(a.dtype)) return elementwise("clamp", [a, min, max]);
  const { low, high } = integerRange[a.dtype === "u32" ? "u32" : "i32"];
  // A bound beyond all integers holds nothing back.
  const lower = typeof min === "number" && min < low ? low : min;
  const upper = typeof max === "number" && max > high ? high : max;
  return elementwise("clamp", [a, lower, upper]);
}

const cheapPowers: Readonly<Record<string, (a: Tensor) => Tensor>> = {
  "2": square,
  "0.5": sqrt,
  "-0.5": rsqrt,
  "-1": reciprocal,
};

/** a to the power b. */
export function pow(a: Operand, b: Operand): Tensor {
  const cheap = typeof b === "number" && typeof a !== "number" ? cheapPowers[`${b}`] : undefined;
  return cheap ? cheap(a as Tensor) : elementwise("pow", [a, b]);
}

/** The values in another dtype; the tensor itself where it has it already. */
export const cast = (a: Tensor, dtype: DType) => castTo(a, dtype);
