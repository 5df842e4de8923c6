/**
 * Every elementwise op, one line each. From a line come the float64 reference, the WGSL, the gradient (symbolic,
 * from the derivatives in functions.ts), the samples and the documentation.
 */
export interface Row {
  readonly name: string;
  /** Tensors in order; any of them may be given as a number in the attributes instead. */
  readonly args: readonly string[];
  /** In the language of expr.ts, over the arguments. */
  readonly formula: string;
  /**
   * Dtype of the result: `promote` the arguments (bool counts as i32), `keep` also bool, `float` at least f32,
   * `bool`.
   */
  readonly result: "promote" | "keep" | "float" | "bool";
  readonly doc: string;
  /** Range of the random samples of each argument; [-2, 2] where absent. */
  readonly ranges?: readonly (readonly [number, number])[];
  /** Arguments that only select and do not take part in dtype promotion; sampled as bool. */
  readonly masks?: readonly string[];
  /** Arguments that samples give as numbers. */
  readonly numbers?: Readonly<Record<string, number>>;
}

type Options = Pick<Row, "ranges" | "masks" | "numbers">;

function row(
  name: string,
  args: string,
  formula: string,
  result: Row["result"],
  doc: string,
  options: Options = {},
): Row {
  return { name, args: args.split(" "), formula, result, doc, ...options };
}

const positive = { ranges: [[0.2, 4]] as const };

export const table: readonly Row[] = [
  row("copy", "a", "a", "keep", "a in a memory of its own, row-major."),
  row("add", "a b", "a + b", "promote", "a + b."),
  row("sub", "a b", "a - b", "promote", "a - b."),
  row("mul", "a b", "a * b", "promote", "a * b."),
  row("div", "a b", "a / b", "float", "a / b; integers give f32.", {
    ranges: [
      [-2, 2],
      [0.5, 3],
    ],
  }),
  row(
    "maximum",
    "a b",
    "maximum(a, b)",
    "keep",
    "The larger; NaN if either is. At ties each takes half the gradient.",
  ),
  row(
    "minimum",
    "a b",
    "minimum(a, b)",
    "keep",
    "The smaller; NaN if either is. At ties each takes half the gradient.",
  ),
  row("pow", "a b", "pow(a, b)", "float", "a to the power b; negative a needs whole b.", {
    ranges: [
      [0.2, 2],
      [-1.5, 2.5],
    ],
  }),
  row("neg", "a", "-a", "promote", "-a."),
  row("abs", "a", "abs(a)", "promote", "|a|; gradient 0 at 0."),
  row("sign", "a", "sign(a)", "promote", "-1, 0 or 1."),
  row(
    "floor",
    "a",
    "floor(a)",
    "promote",
    "The largest whole number not above a; integers stay as they are.",
    { ranges: [[0.1, 0.9]] },
  ),
  row(
    "round",
    "a",
    "round(a)",
    "promote",
    "The nearest whole number, ties to even; integers stay as they are.",
    { ranges: [[0.6, 1.4]] },
  ),
  row("square", "a", "a * a", "promote", "a^2."),
  row("reciprocal", "a", "1 / a", "float", "1 / a.", { ranges: [[0.3, 3]] }),
  row("exp", "a", "exp(a)", "float", "e^a."),
  row("expm1", "a", "expm1(a)", "float", "e^a - 1, exact near 0."),
  row("log", "a", "log(a)", "float", "Natural logarithm.", positive),
  row("log1p", "a", "log1p(a)", "float", "log(1 + a), exact near 0.", { ranges: [[-0.5, 3]] }),
  row("sqrt", "a", "sqrt(a)", "float", "Square root.", positive),
  row("rsqrt", "a", "rsqrt(a)", "float", "1 / sqrt(a).", positive),
  row("sin", "a", "sin(a)", "float", "Sine of radians.", { ranges: [[-6, 6]] }),
  row("cos", "a", "cos(a)", "float", "Cosine of radians.", { ranges: [[-6, 6]] }),
  row("tanh", "a", "tanh(a)", "float", "Hyperbolic tangent.", { ranges: [[-6, 6]] }),
  row("sigmoid", "a", "sigmoid(a)", "float", "1 / (1 + exp(-a)).", { ranges: [[-12, 12]] }),
  row("relu", "a", "where(a <= 0, 0, a)", "promote", "max(a, 0); gradient 0 at 0."),
  row("silu", "a", "a * sigmoid(a)", "float", "a sigmoid(a) (Elfwing et al. 2017).", { ranges: [[-8, 8]] }),
  row("softplus", "a", "softplus(a)", "float", "log(1 + exp(a)).", { ranges: [[-12, 12]] }),
  row("erf", "a", "erf(a)", "float", "Error function.", { ranges: [[-3, 3]] }),
  row(
    "gelu",
    "a",
    "0.5 * a * (1 + erf(0.7071067811865476 * a))",
    "float",
    "a Phi(a) (Hendrycks & Gimpel 2016).",
    { ranges: [[-5, 5]] },
  ),
  row(
    "gelu_tanh",
    "a",
    "0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))",
    "float",
    "The tanh approximation of gelu.",
    { ranges: [[-5, 5]] },
  ),
  row(
    "swiglu",
    "gate up",
    "gate * sigmoid(gate) * up",
    "float",
    "silu(gate) * up, the gate of Llama's MLP (Shazeer 2020).",
  ),
  row(
    "bce_with_logits",
    "logit target",
    "softplus(logit) - logit * target",
    "float",
    "Binary cross-entropy of sigmoid(logit) against target, per element.",
    {
      ranges: [
        [-8, 8],
        [0, 1],
      ],
    },
  ),
  row(
    "clamp",
    "a min max",
    "where(min != min, min, where(max != max, max, where(a > max, max, where(a < min, where(max < min, max, min), a))))",
    "keep",
    "a held within min and max; NaN if any is, max where min is above it.",
    { numbers: { min: -0.5, max: 0.7 } },
  ),
  row("lerp", "a b weight", "a + weight * (b - a)", "float", "a + weight (b - a)."),
  row("where", "condition a b", "where(condition, a, b)", "keep", "a where condition holds, else b.", {
    masks: ["condition"],
  }),
  row("masked_fill", "a mask value", "where(mask, value, a)", "keep", "a with value where mask holds.", {
    masks: ["mask"],
    numbers: { value: -1e4 },
  }),
  row("eq", "a b", "a == b", "bool", "a = b."),
  row("ne", "a b", "a != b", "bool", "a differs from b."),
  row("lt", "a b", "a < b", "bool", "a < b."),
  row("le", "a b", "a <= b", "bool", "a <= b."),
  row("gt", "a b", "a > b", "bool", "a > b."),
  row("ge", "a b", "a >= b", "bool", "a >= b."),
  row("logical_and", "a b", "(a != 0) * (b != 0)", "bool", "Both are non-zero."),
  row("logical_or", "a b", "where(a != 0, 1, b != 0)", "bool", "Either is non-zero."),
  row("logical_not", "a", "a == 0", "bool", "a is zero."),
  row("isnan", "a", "isnan(a)", "bool", "a is not a number."),
  row("isfinite", "a", "isfinite(a)", "bool", "a is neither infinite nor NaN."),
];
