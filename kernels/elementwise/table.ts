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
const fraction = within([0.1, 0.9]);
const rest = within([2.1, 2.9], [0.97, 1]);
const shift = within([-50, 50], [-2, 34]);

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
export const ceil = row(
  "ceil",
  "a",
  "ceil(a)",
  "promote",
  "The smallest whole number not below a.",
  fraction,
);
export const trunc = row("trunc", "a", "trunc(a)", "promote", "a without its fraction.", fraction);
export const fmod = row(
  "fmod",
  "a b",
  "fmod(a, b)",
  "promote",
  "The rest of a / b with the sign of a.",
  rest,
);
export const remainder = row(
  "remainder",
  "a b",
  "remainder(a, b)",
  "promote",
  "a - b floor(a / b): the sign of b, as Python's %. Integers by 0 give 0.",
  rest,
);
export const floorDivide = row(
  "floor_divide",
  "a b",
  "floor_divide(a, b)",
  "promote",
  "floor(a / b); integers by 0 give 0.",
  rest,
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
export const log2 = row(
  "log2",
  "a",
  "log2(a)",
  "float",
  "Logarithm to base 2; exact for powers of two.",
  positive,
);
export const log10 = row(
  "log10",
  "a",
  "log(a) * 0.4342944819032518",
  "float",
  "Logarithm to base 10.",
  positive,
);
export const exp2 = row("exp2", "a", "exp2(a)", "float", "2^a; exact for whole a.");
export const sqrt = row("sqrt", "a", "sqrt(a)", "float", "Square root.", positive);
export const rsqrt = row("rsqrt", "a", "rsqrt(a)", "float", "1 / sqrt(a).", positive);
export const sin = row("sin", "a", "sin(a)", "float", "Sine of radians.", within([-6, 6]));
export const cos = row("cos", "a", "cos(a)", "float", "Cosine of radians.", within([-6, 6]));
export const tan = row("tan", "a", "sin(a) / cos(a)", "float", "Tangent of radians.", within([-1.4, 1.4]));
export const asin = row("asin", "a", "asin(a)", "float", "Inverse sine, in radians.", within([-0.9, 0.9]));
export const acos = row("acos", "a", "acos(a)", "float", "Inverse cosine, in radians.", within([-0.9, 0.9]));
export const atan = row("atan", "a", "atan(a)", "float", "Inverse tangent, in radians.", within([-4, 4]));
export const atan2 = row(
  "atan2",
  "a b",
  "atan2(a, b)",
  "float",
  "Angle of the point (b, a), in radians.",
  within([-3, 3], [0.5, 3]),
);
export const sinh = row("sinh", "a", "sinh(a)", "float", "Hyperbolic sine.");
export const cosh = row("cosh", "a", "cosh(a)", "float", "Hyperbolic cosine.");
export const asinh = row("asinh", "a", "asinh(a)", "float", "Inverse hyperbolic sine.", within([-4, 4]));
export const acosh = row("acosh", "a", "acosh(a)", "float", "Inverse hyperbolic cosine.", within([1.2, 4]));
export const atanh = row(
  "atanh",
  "a",
  "atanh(a)",
  "float",
  "Inverse hyperbolic tangent.",
  within([-0.9, 0.9]),
);
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
export const leakyRelu = row(
  "leaky_relu",
  "a slope=0.01",
  "where(a > 0, a, slope * a)",
  "float",
  "a above 0, slope a below.",
);
export const elu = row(
  "elu",
  "a alpha=1",
  "where(a > 0, a, alpha * expm1(a))",
  "float",
  "a above 0, alpha (e^a - 1) below (Clevert et al. 2015).",
);
export const mish = row("mish", "a", "a * tanh(softplus(a))", "float", "a tanh(log(1 + e^a)) (Misra 2019).");
export const hardtanh = row(
  "hardtanh",
  "a min=-1 max=1",
  "where(a <= min, min, where(a >= max, max, a))",
  "promote",
  "a held within min and max; gradient 0 at both.",
);
export const hardsigmoid = row(
  "hardsigmoid",
  "a",
  "where(a <= -3, 0, where(a >= 3, 1, a / 6 + 0.5))",
  "float",
  "a / 6 + 1/2 held within 0 and 1.",
);
export const hardswish = row(
  "hardswish",
  "a",
  "a * where(a <= -3, 0, where(a >= 3, 1, a / 6 + 0.5))",
  "float",
  "a hardsigmoid(a) (Howard et al. 2019).",
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
export const logicalXor = row("logical_xor", "a b", "(a != 0) != (b != 0)", "bool", "Just one is non-zero.");
export const bitwiseAnd = row("bitwise_and", "a b", "bit_and(a, b)", "integer", "Bits that both have.");
export const bitwiseOr = row("bitwise_or", "a b", "bit_or(a, b)", "integer", "Bits that either has.");
export const bitwiseXor = row("bitwise_xor", "a b", "bit_xor(a, b)", "integer", "Bits that just one has.");
export const bitwiseNot = row("bitwise_not", "a", "bit_not(a)", "integer", "Every bit turned over.");
export const bitwiseLeftShift = row(
  "bitwise_left_shift",
  "a b",
  "shift_left(a, b)",
  "integer",
  "a 2^b modulo 2^32; 0 where b is outside of 0 to 31.",
  shift,
);
export const bitwiseRightShift = row(
  "bitwise_right_shift",
  "a b",
  "shift_right(a, b)",
  "integer",
  "floor(a / 2^b); as by 32 where b is outside of 0 to 31.",
  shift,
);
export const isinf = row("isinf", "a", "isinf(a)", "bool", "a is infinite.");
export const isnan = row("isnan", "a", "isnan(a)", "bool", "a is not a number.");
export const isfinite = row("isfinite", "a", "isfinite(a)", "bool", "a is neither infinite nor NaN.");
