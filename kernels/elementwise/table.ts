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

/** The function of a row by its signature: `"exp a"` takes one tensor, `"add a b"` operands, `"elu a alpha=1"` has a default. */
type ElementwiseFunction<Signature extends string> = Signature extends `${string} ${infer Args}`
  ? Args extends "a"
    ? (a: Tensor) => Tensor
    : (...args: Parameters<Args>) => Tensor
  : never;

type Options = Partial<Pick<Row, "ranges" | "masks" | "numbers">>;

/**
 * Rows whose results have one rule for their dtype. A row is one elementwise op and the function that calls it: from it
 * come the export, the method of Tensor, the float64 reference, the WGSL, the gradient (symbolic, from the derivatives in
 * functions.ts), the samples and the documentation. Its arguments:
 *
 * - signature: the name in snake case (exported in camel case), then its tensors in order, `name=value` with a default
 * - formula: in the language of expr.ts, over the tensors
 */
function rowsOf(result: Row["result"]) {
  return <const Signature extends string>(
    signature: Signature,
    formula: string,
    doc: string,
    options: Options = {},
  ): ElementwiseFunction<Signature> => {
    const [name, ...args] = signature.split(" ");
    const parts = args.map((arg) => arg.split("="));
    const defaults = Object.fromEntries(
      parts.flatMap(([arg, value]) => (value ? [[arg, Number(value)]] : [])),
    );
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
    return call as ElementwiseFunction<Signature>;
  };
}
const float = rowsOf("float");
const promote = rowsOf("promote");
const keep = rowsOf("keep");
const bool = rowsOf("bool");
const integer = rowsOf("integer");

/** The ranges of random samples of each argument. */
const within = (...ranges: (readonly [number, number])[]): Options => ({ ranges });
const positive = within([0.2, 4]);
const fraction = within([0.1, 0.9]);
const rest = within([2.1, 2.9], [0.97, 1]);
const shift = within([-50, 50], [-2, 34]);

// Every elementwise op, a line each: shapes broadcast.
export const copy = keep("copy a", "a", "a in a memory of its own, row-major.");
export const add = promote("add a b", "a + b", "a + b.");
export const sub = promote("sub a b", "a - b", "a - b.");
export const mul = promote("mul a b", "a * b", "a * b.");
export const div = float("div a b", "a / b", "a / b; integers give f32.", within([-2, 2], [0.5, 3]));
export const maximum = keep(
  "maximum a b",
  "maximum(a, b)",
  "The larger; NaN if either is. At ties each takes half the gradient.",
);
export const minimum = keep(
  "minimum a b",
  "minimum(a, b)",
  "The smaller; NaN if either is. At ties each takes half the gradient.",
);
export const pow = float(
  "pow a b",
  "pow(a, b)",
  "a to the power b; negative a needs whole b.",
  within([0.2, 2], [-1.5, 2.5]),
);
export const neg = promote("neg a", "-a", "-a.");
export const abs = promote("abs a", "abs(a)", "|a|; gradient 0 at 0.");
export const sign = promote("sign a", "sign(a)", "-1, 0 or 1.");
export const floor = promote(
  "floor a",
  "floor(a)",
  "The largest whole number not above a; integers stay as they are.",
  fraction,
);
export const ceil = promote("ceil a", "ceil(a)", "The smallest whole number not below a.", fraction);
export const trunc = promote("trunc a", "trunc(a)", "a without its fraction.", fraction);
export const fmod = promote("fmod a b", "fmod(a, b)", "The rest of a / b with the sign of a.", rest);
export const remainder = promote(
  "remainder a b",
  "remainder(a, b)",
  "a - b floor(a / b): the sign of b, as Python's %. Integers by 0 give 0.",
  rest,
);
export const floorDivide = promote(
  "floor_divide a b",
  "floor_divide(a, b)",
  "floor(a / b); integers by 0 give 0.",
  rest,
);
export const round = promote(
  "round a",
  "round(a)",
  "The nearest whole number, ties to even; integers stay as they are.",
  within([0.6, 1.4]),
);
export const square = promote("square a", "a * a", "a^2.");
export const reciprocal = float("reciprocal a", "1 / a", "1 / a.", within([0.3, 3]));
export const exp = float("exp a", "exp(a)", "e^a.");
export const expm1 = float("expm1 a", "expm1(a)", "e^a - 1, exact near 0.");
export const log = float("log a", "log(a)", "Natural logarithm.", positive);
export const log1p = float("log1p a", "log1p(a)", "log(1 + a), exact near 0.", within([-0.5, 3]));
export const log2 = float("log2 a", "log2(a)", "Logarithm to base 2; exact for powers of two.", positive);
export const log10 = float("log10 a", "log(a) * 0.4342944819032518", "Logarithm to base 10.", positive);
export const exp2 = float("exp2 a", "exp2(a)", "2^a; exact for whole a.");
export const sqrt = float("sqrt a", "sqrt(a)", "Square root.", positive);
export const rsqrt = float("rsqrt a", "rsqrt(a)", "1 / sqrt(a).", positive);
export const sin = float("sin a", "sin(a)", "Sine of radians.", within([-6, 6]));
export const cos = float("cos a", "cos(a)", "Cosine of radians.", within([-6, 6]));
export const tan = float("tan a", "sin(a) / cos(a)", "Tangent of radians.", within([-1.4, 1.4]));
export const asin = float("asin a", "asin(a)", "Inverse sine, in radians.", within([-0.9, 0.9]));
export const acos = float("acos a", "acos(a)", "Inverse cosine, in radians.", within([-0.9, 0.9]));
export const atan = float("atan a", "atan(a)", "Inverse tangent, in radians.", within([-4, 4]));
export const atan2 = float(
  "atan2 a b",
  "atan2(a, b)",
  "Angle of the point (b, a), in radians.",
  within([-3, 3], [0.5, 3]),
);
export const sinh = float("sinh a", "sinh(a)", "Hyperbolic sine.");
export const cosh = float("cosh a", "cosh(a)", "Hyperbolic cosine.");
export const asinh = float("asinh a", "asinh(a)", "Inverse hyperbolic sine.", within([-4, 4]));
export const acosh = float("acosh a", "acosh(a)", "Inverse hyperbolic cosine.", within([1.2, 4]));
export const atanh = float("atanh a", "atanh(a)", "Inverse hyperbolic tangent.", within([-0.9, 0.9]));
export const tanh = float("tanh a", "tanh(a)", "Hyperbolic tangent.", within([-6, 6]));
export const sigmoid = float("sigmoid a", "sigmoid(a)", "1 / (1 + exp(-a)).", within([-12, 12]));
export const relu = promote("relu a", "where(a <= 0, 0, a)", "max(a, 0); gradient 0 at 0.");
export const silu = float("silu a", "a * sigmoid(a)", "a sigmoid(a) (Elfwing et al. 2017).", within([-8, 8]));
export const leakyRelu = float(
  "leaky_relu a slope=0.01",
  "where(a > 0, a, slope * a)",
  "a above 0, slope a below.",
);
export const elu = float(
  "elu a alpha=1",
  "where(a > 0, a, alpha * expm1(a))",
  "a above 0, alpha (e^a - 1) below (Clevert et al. 2015).",
);
export const mish = float("mish a", "a * tanh(softplus(a))", "a tanh(log(1 + e^a)) (Misra 2019).");
export const hardtanh = promote(
  "hardtanh a min=-1 max=1",
  "where(a <= min, min, where(a >= max, max, a))",
  "a held within min and max; gradient 0 at both.",
);
export const hardsigmoid = float(
  "hardsigmoid a",
  "where(a <= -3, 0, where(a >= 3, 1, a / 6 + 0.5))",
  "a / 6 + 1/2 held within 0 and 1.",
);
export const hardswish = float(
  "hardswish a",
  "a * where(a <= -3, 0, where(a >= 3, 1, a / 6 + 0.5))",
  "a hardsigmoid(a) (Howard et al. 2019).",
);
export const softplus = float("softplus a", "softplus(a)", "log(1 + exp(a)).", within([-12, 12]));
export const erf = float("erf a", "erf(a)", "Error function.", within([-3, 3]));
export const gelu = float(
  "gelu a",
  "0.5 * a * (1 + erf(0.7071067811865476 * a))",
  "a Phi(a) (Hendrycks & Gimpel 2016).",
  within([-5, 5]),
);
export const geluTanh = float(
  "gelu_tanh a",
  "0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))",
  "The tanh approximation of gelu.",
  within([-5, 5]),
);
export const swiglu = float(
  "swiglu gate up",
  "gate * sigmoid(gate) * up",
  "silu(gate) * up, the gate of Llama's MLP (Shazeer 2020).",
);
export const bceWithLogits = float(
  "bce_with_logits logit target",
  "softplus(logit) - logit * target",
  "Binary cross-entropy of sigmoid(logit) against target, per element.",
  within([-8, 8], [0, 1]),
);
export const clamp = keep(
  "clamp a min max",
  "where(min != min, min, where(max != max, max, where(a > max, max, where(a < min, where(max < min, max, min), a))))",
  "a held within min and max; NaN if any is, max where min is above it.",
  { numbers: { min: -0.5, max: 0.7 } },
);
export const lerp = float("lerp a b weight", "a + weight * (b - a)", "a + weight (b - a).");
export const where = keep(
  "where condition a b",
  "where(condition, a, b)",
  "a where condition holds, else b.",
  { masks: ["condition"] },
);
export const maskedFill = keep(
  "masked_fill a mask value",
  "where(mask, value, a)",
  "a with value where mask holds.",
  { masks: ["mask"], numbers: { value: -1e4 } },
);
export const eq = bool("eq a b", "a == b", "a = b.");
export const ne = bool("ne a b", "a != b", "a differs from b.");
export const lt = bool("lt a b", "a < b", "a < b.");
export const le = bool("le a b", "a <= b", "a <= b.");
export const gt = bool("gt a b", "a > b", "a > b.");
export const ge = bool("ge a b", "a >= b", "a >= b.");
export const logicalAnd = bool("logical_and a b", "(a != 0) * (b != 0)", "Both are non-zero.");
export const logicalOr = bool("logical_or a b", "where(a != 0, 1, b != 0)", "Either is non-zero.");
export const logicalNot = bool("logical_not a", "a == 0", "a is zero.");
export const logicalXor = bool("logical_xor a b", "(a != 0) != (b != 0)", "Just one is non-zero.");
export const bitwiseAnd = integer("bitwise_and a b", "bit_and(a, b)", "Bits that both have.");
export const bitwiseOr = integer("bitwise_or a b", "bit_or(a, b)", "Bits that either has.");
export const bitwiseXor = integer("bitwise_xor a b", "bit_xor(a, b)", "Bits that just one has.");
export const bitwiseNot = integer("bitwise_not a", "bit_not(a)", "Every bit turned over.");
export const bitwiseLeftShift = integer(
  "bitwise_left_shift a b",
  "shift_left(a, b)",
  "a 2^b modulo 2^32; 0 where b is outside of 0 to 31.",
  shift,
);
export const bitwiseRightShift = integer(
  "bitwise_right_shift a b",
  "shift_right(a, b)",
  "floor(a / 2^b); as by 32 where b is outside of 0 to 31.",
  shift,
);
export const isinf = bool("isinf a", "isinf(a)", "a is infinite.");
export const isnan = bool("isnan a", "isnan(a)", "a is not a number.");
export const isfinite = bool("isfinite a", "isfinite(a)", "a is neither infinite nor NaN.");
