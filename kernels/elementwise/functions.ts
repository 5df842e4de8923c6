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
  /** Whether integer arithmetic can compute it. */
  readonly integers?: boolean;
}

const boolean = (f: (a: number, b: number) => boolean) => (a: number, b: number) => (f(a, b) ? 1 : 0);

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
  round: { f: roundHalfEven, wgsl: "round", derivatives: ["0"], integers: true },
  isnan: { f: (a) => (Number.isNaN(a) ? 1 : 0), wgsl: "is_nan", derivatives: ["0"] },
  isfinite: { f: (a) => (Number.isFinite(a) ? 1 : 0), wgsl: "is_finite", derivatives: ["0"] },
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

function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}
