import { KilnError } from "../../core/errors.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import * as k from "../../kernels/index.ts";
import * as nn from "../../nn/index.ts";

/** Tensors by PyTorch's argument name; an optional one may be missing. */
export type Inputs = Readonly<Record<string, Tensor>>;
/** The attributes of a case, as the JSON gives them. */
export type Attributes = Readonly<Record<string, unknown>>;
export type OpCall = (inputs: Inputs, attrs: Attributes) => Tensor | Tensor[];

function need(inputs: Inputs, name: string): Tensor {
  const found = inputs[name];
  if (!found) throw new KilnError(`the case has no input ${name}`);
  return found;
}

const x = (inputs: Inputs) => need(inputs, "input");

function num(attrs: Attributes, name: string, fallback?: number): number {
  const value = attrs[name] ?? fallback;
  if (typeof value !== "number") throw new KilnError(`the case has no number ${name}`);
  return value;
}

function list(attrs: Attributes, name: string): number[] {
  const value = attrs[name];
  if (!Array.isArray(value)) throw new KilnError(`the case has no list ${name}`);
  return value as number[];
}

type Unary = (x: Tensor) => Tensor;
type Binary = (a: Tensor, b: Tensor) => Tensor;
type Reduction = (x: Tensor, dim?: number | readonly number[] | null, keepdim?: boolean) => Tensor;

const unary =
  (f: Unary): OpCall =>
  (inputs) =>
    f(x(inputs));
const binary =
  (f: Binary, second = "other"): OpCall =>
  (inputs) =>
    f(x(inputs), need(inputs, second));
const reduction =
  (f: Reduction): OpCall =>
  (inputs, attrs) =>
    f(x(inputs), (attrs.dim ?? null) as number | number[] | null, attrs.keepdim === true);

const unaryOps: Record<string, Unary> = {
  ...{ neg: k.neg, exp: k.exp, log: k.log, sqrt: k.sqrt, rsqrt: k.rsqrt, abs: k.abs, tanh: k.tanh },
  ...{ sigmoid: k.sigmoid, relu: k.relu, silu: k.silu, softplus: k.softplus, sin: k.sin, cos: k.cos },
  ...{ erf: k.erf, reciprocal: k.reciprocal, log1p: k.log1p, expm1: k.expm1 },
};
const binaryOps: Record<string, Binary> = {
  ...{ add: k.add, sub: k.sub, mul: k.mul, div: k.div, maximum: k.maximum, minimum: k.minimum },
};
const callsOf = <T>(ops: Record<string, T>, of: (op: T) => OpCall) =>
  Object.fromEntries(Object.entries(ops).map(([name, op]) => [name, of(op)]));

const elementwise: Record<string, OpCall> = {
  ...callsOf(unaryOps, unary),
  ...callsOf(binaryOps, binary),
  gelu: (inputs, { approximate }) => (approximate === "tanh" ? k.geluTanh : k.gelu)(x(inputs)),
  pow: (inputs, attrs) => k.pow(x(inputs), inputs.exponent ?? num(attrs, "exponent")),
  clamp: (inputs, attrs) =>
    k.clamp(
      x(inputs),
      num(attrs, "min", Number.NEGATIVE_INFINITY),
      num(attrs, "max", Number.POSITIVE_INFINITY),
    ),
  where: (inputs) => k.where(need(inputs, "condition"), x(inputs), need(inputs, "other")),
  masked_fill: (inputs, attrs) => k.maskedFill(x(inputs), need(inputs, "mask"), num(attrs, "value")),
};

const reductions: Record<string, OpCall> = {
  sum: reduction(k.sum),
  mean: reduction(k.mean),
  amax: reduction(k.amax),
  amin: reduction(k.amin),
  logsumexp: reduction(k.logsumexp),
  prod: reduction(k.prod as Reduction),
  argmax: reduction(k.argmax as Reduction),
  argmin: reduction(k.argmin as Reduction),
  var: (inputs, attrs) => k.variance(x(inputs), num(attrs, "dim"), num(attrs, "correction", 1)),
  cumsum: (inputs, attrs) => k.cumsum(x(inputs), num(attrs, "dim")),
  topk: (inputs, attrs) => Object.values(k.topk(x(inputs), num(attrs, "k"), num(attrs, "dim", -1))),
  sort: (inputs, attrs) => Object.values(k.sort(x(inputs), num(attrs, "dim", -1), attrs.descending === true)),
};

const views: Record<string, OpCall> = {
  cat: (inputs, attrs) => k.cat(Object.values(inputs), num(attrs, "dim", 0)),
  stack: (inputs, attrs) => k.stack(Object.values(inputs), num(attrs, "dim", 0)),
  split: (inputs, attrs) => k.split(x(inputs), list(attrs, "sizes"), num(attrs, "dim", 0)),
  slice: (inputs, { slices }) => k.slice(x(inputs), ...(slices as k.Slice[])),
  pad: (inputs, attrs) => k.pad(x(inputs), list(attrs, "pad"), num(attrs, "value", 0)),
  permute: (inputs, attrs) => k.permute(x(inputs), list(attrs, "dims")),
  expand: (inputs, attrs) => k.expand(x(inputs), list(attrs, "shape")),
  flip: (inputs, attrs) => k.flip(x(inputs), list(attrs, "dims")),
  tril: (inputs, attrs) => k.tril(x(inputs), num(attrs, "diagonal", 0)),
  triu: (inputs, attrs) => k.triu(x(inputs), num(attrs, "diagonal", 0)),
};

const indexing: Record<string, OpCall> = {
  embedding: (inputs) => k.embedding(need(inputs, "indices"), need(inputs, "weight")),
  gather: (inputs, attrs) => k.gather(x(inputs), num(attrs, "dim"), need(inputs, "index")),
  index_select: (inputs, attrs) => k.indexSelect(x(inputs), num(attrs, "dim"), need(inputs, "index")),
  scatter_add: (inputs, attrs) =>
    k.scatterAdd(x(inputs), num(attrs, "dim"), need(inputs, "index"), need(inputs, "src")),
};

const layers: Record<string, OpCall> = {
  matmul: (inputs, attrs) => {
    const [a, b] = [x(inputs), need(inputs, "other")];
    return k.matmul(attrs.transpose_a ? k.transpose(a) : a, attrs.transpose_b ? k.transpose(b) : b);
  },
  linear: (inputs) => k.linear(x(inputs), need(inputs, "weight"), inputs.bias ?? null),
  softmax: (inputs, attrs) => k.softmax(x(inputs), num(attrs, "dim", -1)),
  log_softmax: (inputs, attrs) => k.logSoftmax(x(inputs), num(attrs, "dim", -1)),
  layer_norm: (inputs, attrs) =>
    k.layerNorm(x(inputs), need(inputs, "weight"), need(inputs, "bias"), num(attrs, "eps")),
  rms_norm: (inputs, attrs) => k.rmsNorm(x(inputs), need(inputs, "weight"), num(attrs, "eps")),
  attention: (inputs, { causal }) => {
    const [query, key, value] = ["query", "key", "value"].map((name) => need(inputs, name));
    return k.attention(query!, key!, value!, { causal: causal === true, mask: inputs.mask });
  },
  rope: rotate,
};

/** The fixture's heads come before its positions; kiln's are [B, T, H, D], as in a projection's output. */
function rotate(inputs: Inputs, attrs: Attributes): Tensor {
  const interleaved = attrs.layout === "interleaved";
  if (!interleaved && (attrs.layout ?? "rotate_half") !== "rotate_half")
    throw new KilnError(`rope: unknown layout ${String(attrs.layout)}`);
  const input = k.permute(x(inputs), [0, 2, 1, 3]);
  const [batch, length, , dim] = input.shape as [number, number, number, number];
  const theta = num(attrs, "theta");
  const frequencies = Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
  const first = num(attrs, "position_offset", 0);
  const positions = Int32Array.from({ length: batch * length }, (_, i) => first + (i % length));
  const at = tensor(positions, [batch, length], "i32");
  return k.permute(k.rope(input, tensor(frequencies), at, { interleaved }), [0, 2, 1, 3]);
}

const losses: Record<string, OpCall> = {
  cross_entropy: (inputs, attrs) =>
    k.crossEntropy(x(inputs), need(inputs, "target"), {
      ignoreIndex: num(attrs, "ignore_index", -100),
      labelSmoothing: num(attrs, "label_smoothing", 0),
      reduction: (attrs.reduction ?? "mean") as "mean" | "sum",
    }),
  mse_loss: binary(nn.mseLoss, "target"),
  bce_with_logits: binary(nn.bceWithLogitsLoss, "target"),
  kl_div: (inputs, attrs) => nn.klDivLoss(x(inputs), need(inputs, "target"), num(attrs, "temperature", 1)),
  cosine_embedding_loss: binary((a, b) => nn.cosineEmbeddingLoss(a, b)),
};

/** How each op of a fixture is called here. */
export const opTable: Readonly<Record<string, OpCall>> = {
  ...elementwise,
  ...reductions,
  ...views,
  ...indexing,
  ...layers,
  ...losses,
};
