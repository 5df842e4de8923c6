import type { Tensor } from "../../core/tensor.ts";
import { defineElementwise } from "./op.ts";
import type { Row } from "./program.ts";

/** An operand: a tensor, or a number, which adapts to the other operand's dtype. */
export type Operand = Tensor | number;

/** The parameters that editors show; an argument that is not among them takes any operand. */
interface Named {
  a: [a: Operand];
  b: [b: Operand];
  gate: [gate: Tensor];
  up: [up: Tensor];
  logit: [logit: Tensor];
  target: [target: Operand];
  weight: [weight: Operand];
  condition: [condition: Tensor];
  mask: [mask: Tensor];
  value: [value: Operand];
}
type Parameters<Args extends string> = Args extends `${infer First} ${infer Rest}`
  ? [...Parameters<First>, ...Parameters<Rest>]
  : Args extends keyof Named
    ? Named[Args]
    : Args extends `${string}=${string}`
      ? [number?: Operand]
      : [operand: Operand];

/** The function of a row by its arguments: `"a"` takes one tensor, `"a b"` operands, `"a slope=0.01"` has a default. */
type ElementwiseFunction<Args extends string> = Args extends "a"
  ? (a: Tensor) => Tensor
  : (...args: Parameters<Args>) => Tensor;

type Options = Partial<Pick<Row, "ranges" | "masks" | "numbers">>;

/**
 * One elementwise op and the function that calls it. From a row come the export, the method of Tensor, the float64
 * reference, the WGSL, the gradient (symbolic, from the derivatives in functions.ts), the samples and the documentation.
 *
 * @param name in snake case; exported in camel case
 * @param args names of the tensors in order, `name=value` with a default
 * @param formula in the language of expr.ts, over the arguments
 */
function row<const Args extends string>(
  name: string,
  args: Args,
  formula: string,
  result: Row["result"],
  doc: string,
  options: Options = {},
): ElementwiseFunction<Args> {
  const parts = args.split(" ").map((arg) => arg.split("="));
  const defaults = Object.fromEntries(parts.flatMap(([arg, value]) => (value ? [[arg, Number(value)]] : [])));
  const call = defineElementwise({
    name,
    args: parts.map(([arg]) => arg),
    formula,
    result,
    doc,
    ...options,
    numbers: { ...defaults, ...options.numbers },
    defaults,
  });
  return call as ElementwiseFunction<Args>;
}

/** The ranges of random samples of each argument. */
const within = (...ranges: (readonly [number, number])[]): Options => ({ ranges });
const positive = within([0.2, 4]);

// Every elementwise op, a line each: shapes broadcast.
export const copy = row("copy", "a", "a", "keep", "a in a memory of its own, row-major.");
export const add = row("add", "a b", "a + b", "promote", "a + b.");
export const sub = row("sub", "a b", "a - b", "promote", "a - b.");
export const mul = row("mul", "a b", "a * b", "promote", "a * b.");
export const div = row(
  "div",
  "a b",
  "a / b",
  "float",
  "a / b; integers give f32.",
  within([-2, 2], [0.5, 3]),
);
export const maximum = row(
  "maximum",
  "a b",
  "maximum(a, b)",
  "keep",
  "The larger; NaN if either is. At ties each takes half the gradient.",
);
export const minimum = row(
  "minimum",
  "a b",
  "minimum(a, b)",
  "keep",
  "The smaller; NaN if either is. At ties each takes half the gradient.",
);
export const pow = row(
  "pow",
  "a b",
  "pow(a, b)",
  "float",
  "a to the power b; negative a needs whole b.",
  within([0.2, 2], [-1.5, 2.5]),
);
export const neg = row("neg", "a", "-a", "promote", "-a.");
export const abs = row("abs", "a", "abs(a)", "promote", "|a|; gradient 0 at 0.");
export const sign = row("sign", "a", "sign(a)", "promote", "-1, 0 or 1.");
export const floor = row(
  "floor",
  "a",
  "floor(a)",
  "promote",
  "The largest whole number not above a; integers stay as they are.",
  within([0.1, 0.9]),
);
export const round = row(
  "round",
  "a",
  "round(a)",
  "promote",
  "The nearest whole number, ties to even; integers stay as they are.",
  within([0.6, 1.4]),
);
export const square = row("square", "a", "a * a", "promote", "a^2.");
export const reciprocal = row("reciprocal", "a", "1 / a", "float", "1 / a.", within([0.3, 3]));
export const exp = row("exp", "a", "exp(a)", "float", "e^a.");
export const expm1 = row("expm1", "a", "expm1(a)", "float", "e^a - 1, exact near 0.");
export const log = row("log", "a", "log(a)", "float", "Natural logarithm.", positive);
export const log1p = row("log1p", "a", "log1p(a)", "float", "log(1 + a), exact near 0.", within([-0.5, 3]));
export const sqrt = row("sqrt", "a", "sqrt(a)", "float", "Square root.", positive);
export const rsqrt = row("rsqrt", "a", "rsqrt(a)", "float", "1 / sqrt(a).", positive);
export const sin = row("sin", "a", "sin(a)", "float", "Sine of radians.", within([-6, 6]));
export const cos = row("cos", "a", "cos(a)", "float", "Cosine of radians.", within([-6, 6]));
export const tanh = row("tanh", "a", "tanh(a)", "float", "Hyperbolic tangent.", within([-6, 6]));
export const sigmoid = row("sigmoid", "a", "sigmoid(a)", "float", "1 / (1 + exp(-a)).", within([-12, 12]));
export const relu = row("relu", "a", "where(a <= 0, 0, a)", "promote", "max(a, 0); gradient 0 at 0.");
export const silu = row(
  "silu",
  "a",
  "a * sigmoid(a)",
  "float",
  "a sigmoid(a) (Elfwing et al. 2017).",
  within([-8, 8]),
);
export const softplus = row("softplus", "a", "softplus(a)", "float", "log(1 + exp(a)).", within([-12, 12]));
export const erf = row("erf", "a", "erf(a)", "float", "Error function.", within([-3, 3]));
export const gelu = row(
  "gelu",
  "a",
  "0.5 * a * (1 + erf(0.7071067811865476 * a))",
  "float",
  "a Phi(a) (Hendrycks & Gimpel 2016).",
  within([-5, 5]),
);
export const geluTanh = row(
  "gelu_tanh",
  "a",
  "0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))",
  "float",
  "The tanh approximation of gelu.",
  within([-5, 5]),
);
export const swiglu = row(
  "swiglu",
  "gate up",
  "gate * sigmoid(gate) * up",
  "float",
  "silu(gate) * up, the gate of Llama's MLP (Shazeer 2020).",
);
export const bceWithLogits = row(
  "bce_with_logits",
  "logit target",
  "softplus(logit) - logit * target",
  "float",
  "Binary cross-entropy of sigmoid(logit) against target, per element.",
  within([-8, 8], [0, 1]),
);
export const clamp = row(
  "clamp",
  "a min max",
  "where(min != min, min, where(max != max, max, where(a > max, max, where(a < min, where(max < min, max, min), a))))",
  "keep",
  "a held within min and max; NaN if any is, max where min is above it.",
  { numbers: { min: -0.5, max: 0.7 } },
);
export const lerp = row("lerp", "a b weight", "a + weight * (b - a)", "float", "a + weight (b - a).");
export const where = row(
  "where",
  "condition a b",
  "where(condition, a, b)",
  "keep",
  "a where condition holds, else b.",
  { masks: ["condition"] },
);
export const maskedFill = row(
  "masked_fill",
  "a mask value",
  "where(mask, value, a)",
  "keep",
  "a with value where mask holds.",
  { masks: ["mask"], numbers: { value: -1e4 } },
);
export const eq = row("eq", "a b", "a == b", "bool", "a = b.");
export const ne = row("ne", "a b", "a != b", "bool", "a differs from b.");
export const lt = row("lt", "a b", "a < b", "bool", "a < b.");
export const le = row("le", "a b", "a <= b", "bool", "a <= b.");
export const gt = row("gt", "a b", "a > b", "bool", "a > b.");
export const ge = row("ge", "a b", "a >= b", "bool", "a >= b.");
export const logicalAnd = row("logical_and", "a b", "(a != 0) * (b != 0)", "bool", "Both are non-zero.");
export const logicalOr = row("logical_or", "a b", "where(a != 0, 1, b != 0)", "bool", "Either is non-zero.");
export const logicalNot = row("logical_not", "a", "a == 0", "bool", "a is zero.");
export const isnan = row("isnan", "a", "isnan(a)", "bool", "a is not a number.");
export const isfinite = row("isfinite", "a", "isfinite(a)", "bool", "a is neither infinite nor NaN.");
