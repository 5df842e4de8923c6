/**
 * The functions that formulas may call: their meaning in float64, their WGSL name (a builtin, or one of
 * functions.wgsl), and the derivative by each argument, written in the same language over a, b, c.
 */
export interface ElementFunction {
  readonly f: (a: number, b: number, c: number) => number;
  /** WGSL function; absent where lower.ts prints the call itself. */
  readonly wgsl?: string;
  /** Derivative by each argument; "0" where it is zero almost everywhere. */
  readonly derivatives: readonly string[];
  /** Whether integer arithmetic can compute it; `only`, no other can. */
  readonly integers?: boolean | "only";
  /** Whether its WGSL on floats is in further.wgsl, which only the kernels that need it import. */
  readonly further?: boolean;
  /** Gives 0 or 1. */
  readonly boolean?: boolean;
}

const boolean = (f: (a: number, b: number) => boolean) => (a: number, b: number) => (f(a, b) ? 1 : 0);

/** Functions of integers too, whose WGSL on floats is in further.wgsl. */
const wholeFurther = { integers: true, further: true } as const;

export const functions: Readonly<Record<string, ElementFunction>> = {
  "+": { f: (a, b) => a + b, derivatives: ["1", "1"], integers: true },
  "-": { f: (a, b) => a - b, derivatives: ["1", "-1"], integers: true },
  "*": { f: (a, b) => a * b, derivatives: ["b", "a"], integers: true },
  "/": { f: (a, b) => a / b, derivatives: ["1 / b", "-(a / b) / b"] },
  neg: { f: (a) => -a, derivatives: ["-1"], integers: true },
  "==": { f: boolean((a, b) => a === b), derivatives: ["0", "0"], integers: true },
  "!=": { f: boolean((a, b) => a !== b), derivatives: ["0", "0"], integers: true },
  "<": { f: boolean((a, b) => a < b), derivatives: ["0", "0"], integers: true },
  "<=": { f: boolean((a, b) => a <= b), derivatives: ["0", "0"], integers: true },
  ">": { f: boolean((a, b) => a > b), derivatives: ["0", "0"], integers: true },
  ">=": { f: boolean((a, b) => a >= b), derivatives: ["0", "0"], integers: true },
  where: {
    f: (a, b, c) => (a !== 0 ? b : c),
    derivatives: ["0", "where(a, 1, 0)", "where(a, 0, 1)"],
    integers: true,
  },
  maximum: {
    f: (a, b) => Math.max(a, b),
    wgsl: "maximum",
    derivatives: ["where(a == b, 0.5, 1 - (a < b))", "where(a == b, 0.5, 1 - (a > b))"],
    integers: true,
  },
  minimum: {
    f: (a, b) => Math.min(a, b),
    wgsl: "minimum",
    derivatives: ["where(a == b, 0.5, 1 - (a > b))", "where(a == b, 0.5, 1 - (a < b))"],
    integers: true,
  },
  abs: { f: Math.abs, wgsl: "abs", derivatives: ["sign(a)"], integers: true },
  sign: { f: Math.sign, wgsl: "signum", derivatives: ["0"], integers: true },
  floor: { f: Math.floor, wgsl: "floor", derivatives: ["0"], integers: true },
  ceil: { f: Math.ceil, wgsl: "ceil", derivatives: ["0"], integers: true },
  trunc: { f: Math.trunc, wgsl: "trunc", derivatives: ["0"], integers: true },
  round: { f: roundHalfEven, wgsl: "round", derivatives: ["0"], integers: true },
  isnan: { f: boolean(Number.isNaN), wgsl: "is_nan", derivatives: ["0"], boolean: true },
  isfinite: { f: boolean(Number.isFinite), wgsl: "is_finite", derivatives: ["0"], boolean: true },
  isinf: { f: boolean((a) => Math.abs(a) === 1 / 0), wgsl: "is_infinite", derivatives: ["0"], boolean: true },
  fmod: { f: (a, b) => a % b, wgsl: "fmod", derivatives: ["1", "-trunc(a / b)"], ...wholeFurther },
  remainder: { f: remainder, wgsl: "remainder", derivatives: ["1", "-floor(a / b)"], ...wholeFurther },
  floor_divide: { f: floorDivide, wgsl: "floor_divide", derivatives: ["0", "0"], ...wholeFurther },
  bit_and: { f: (a, b) => a & b, wgsl: "bit_and", derivatives: ["0", "0"], integers: "only" },
  bit_or: { f: (a, b) => a | b, wgsl: "bit_or", derivatives: ["0", "0"], integers: "only" },
  bit_xor: { f: (a, b) => a ^ b, wgsl: "bit_xor", derivatives: ["0", "0"], integers: "only" },
  bit_not: { f: (a) => ~a, wgsl: "bit_not", derivatives: ["0"], integers: "only" },
  shift_left: { f: shiftLeft, wgsl: "shift_left", derivatives: ["0", "0"], integers: "only" },
  shift_right: { f: shiftRight, wgsl: "shift_right", derivatives: ["0", "0"], integers: "only" },
  exp: { f: Math.exp, wgsl: "exp_far", derivatives: ["exp(a)"] },
  log: { f: Math.log, wgsl: "log_near", derivatives: ["1 / a"] },
  log1p: { f: Math.log1p, wgsl: "log1p", derivatives: ["1 / (1 + a)"] },
  expm1: { f: Math.expm1, wgsl: "expm1", derivatives: ["exp(a)"] },
  sqrt: { f: Math.sqrt, wgsl: "sqrt", derivatives: ["0.5 / sqrt(a)"] },
  rsqrt: { f: (a) => 1 / Math.sqrt(a), wgsl: "inverseSqrt", derivatives: ["-0.5 * rsqrt(a) / a"] },
  tanh: { f: Math.tanh, wgsl: "tanh_safe", derivatives: ["1 - tanh(a) * tanh(a)"] },
  sigmoid: { f: (a) => 1 / (1 + Math.exp(-a)), wgsl: "sigmoid", derivatives: ["sigmoid(a) * sigmoid(-a)"] },
  softplus: {
    f: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
    wgsl: "softplus",
    derivatives: ["sigmoid(a)"],
  },
  sin: { f: Math.sin, wgsl: "sin_reduced", derivatives: ["cos(a)"] },
  cos: { f: Math.cos, wgsl: "cos_reduced", derivatives: ["-sin(a)"] },
  asin: { f: Math.asin, wgsl: "arc_sine", derivatives: ["rsqrt(1 - a * a)"], further: true },
  acos: { f: Math.acos, wgsl: "arc_cosine", derivatives: ["-rsqrt(1 - a * a)"], further: true },
  atan: { f: Math.atan, wgsl: "arc_tangent", derivatives: ["1 / (1 + a * a)"], further: true },
  atan2: {
    f: Math.atan2,
    wgsl: "angle_of",
    derivatives: ["b / (a * a + b * b)", "-a / (a * a + b * b)"],
    further: true,
  },
  sinh: { f: Math.sinh, wgsl: "sinh_far", derivatives: ["cosh(a)"], further: true },
  cosh: { f: Math.cosh, wgsl: "cosh_far", derivatives: ["sinh(a)"], further: true },
  asinh: { f: Math.asinh, wgsl: "asinh_near", derivatives: ["rsqrt(a * a + 1)"], further: true },
  acosh: { f: Math.acosh, wgsl: "acosh_near", derivatives: ["rsqrt(a * a - 1)"], further: true },
  atanh: { f: Math.atanh, wgsl: "atanh_near", derivatives: ["1 / ((1 - a) * (1 + a))"], further: true },
  log2: { f: Math.log2, wgsl: "log2_exact", derivatives: ["1.4426950408889634 / a"], further: true },
  exp2: {
    f: (a) => 2 ** a,
    wgsl: "exp2_exact",
    derivatives: ["0.6931471805599453 * exp2(a)"],
    further: true,
  },
  erf: { f: erf, wgsl: "erf", derivatives: ["1.1283791670955126 * exp(-(a * a))"] },
  pow: {
    // JavaScript has NaN for 1 to an infinite power or to NaN, IEEE 754 has 1.
    f: (a, b) => (a === 1 || (a === -1 && Math.abs(b) === Number.POSITIVE_INFINITY) ? 1 : a ** b),
    wgsl: "power",
    derivatives: ["where(b == 0, 0, b * pow(a, b - 1))", "where((a == 0) * (b >= 0), 0, pow(a, b) * log(a))"],
  },
};

/** Error function by the series 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!, whose terms never cancel. */
export function erf(x: number): number {
  if (!(Math.abs(x) < 6)) return Number.isNaN(x) ? x : Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** a - b floor(a / b): the sign of b, as in Python. */
function remainder(a: number, b: number): number {
  const rest = a % b;
  return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
}

/** The whole number below a / b, found from the exact remainder. */
function floorDivide(a: number, b: number): number {
  if (b === 0) return a / b;
  const quotient = Math.round((a - (a % b)) / b);
  return a % b !== 0 && a % b < 0 !== b < 0 ? quotient - 1 : quotient;
}

/** JavaScript takes the count modulo 32; bits shifted out are gone, as in PyTorch. */
function shiftLeft(a: number, count: number): number {
  return count < 0 || count > 31 ? 0 : a << count;
}

/** Fills with the sign, of which unsigned numbers have none. */
function shiftRight(a: number, count: number): number {
  return Math.floor(a / 2 ** (count < 0 || count > 31 ? 32 : count));
}

function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}
