import { custom } from "../core/autograd.ts";
import { isFloat } from "../core/dtype.ts";
import { checkOptions, KilnError } from "../core/errors.ts";
import { opError } from "../core/op.ts";
import { checkWhole, rankOf, sameShape } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  abs,
  add,
  bceWithLogits,
  cast,
  clamp,
  crossEntropy,
  div,
  exp,
  gather,
  gt,
  indexSelect,
  isIndex,
  log,
  logSoftmax,
  lt,
  mean,
  mul,
  ne,
  neg,
  permute,
  reshape,
  sqrt,
  square,
  sub,
  sum,
  where,
} from "../kernels/index.ts";

// The losses of torch.nn.functional, with its numbers.

/** `none` keeps the loss of each element, or of each row where a loss compares rows; `mean` is the default. */
export type Reduction = "none" | "mean" | "sum";

interface LossOptions {
  reduction?: Reduction;
}

function reduce(name: string, terms: Tensor, reduction: Reduction = "mean"): Tensor {
  if (reduction === "none") return terms;
  if (reduction === "sum") return sum(terms);
  if (reduction === "mean") return mean(terms);
  throw new KilnError(`${name}: reduction is ${JSON.stringify(reduction)}; expected "none", "mean" or "sum"`);
}

/** Options of the loss `name`: a reduction, and `own`. */
const checked = <O extends LossOptions>(name: string, options: O, ...own: (keyof O & string)[]): O =>
  checkOptions(name, options, ["reduction", ...own]);

/** Broadcasting [N, 1] against [N] would compare everything with everything. */
function assertAlike(name: string, input: Tensor, target: Tensor): void {
  for (const t of [input, target]) rankOf(name, t);
  if (sameShape(input.shape, target.shape)) return;
  throw opError(name, [input, target], "expected a target of the input's shape; reshape() or expand() it");
}

function distance(name: string, input: Tensor, target: Tensor): Tensor {
  assertAlike(name, input, target);
  return sub(input, target);
}

function checkPositive(name: string, what: string, value: number): void {
  if (!(value > 0)) throw new KilnError(`${name}: ${what} is ${value}; expected a number above 0`);
}

/** (input - target)^2. */
export function mseLoss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  const { reduction } = checked("mseLoss", options);
  return reduce("mseLoss", square(distance("mseLoss", input, target)), reduction);
}

/** |input - target|. */
export function l1Loss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  const { reduction } = checked("l1Loss", options);
  return reduce("l1Loss", abs(distance("l1Loss", input, target)), reduction);
}

/** For distances d = |input - target|: d^2 / 2 below delta, and delta (d - delta / 2) from there on (Huber 1964). */
export function huberLoss(
  input: Tensor,
  target: Tensor,
  options: LossOptions & { delta?: number } = {},
): Tensor {
  const { delta = 1, reduction } = checked("huberLoss", options, "delta");
  checkPositive("huberLoss", "delta", delta);
  const d = abs(distance("huberLoss", input, target));
  const far = mul(sub(d, delta / 2), delta);
  return reduce("huberLoss", where(lt(d, delta), mul(square(d), 0.5), far), reduction);
}

/** huberLoss divided by beta: d^2 / (2 beta) for distances below beta, d - beta / 2 from there on. */
export function smoothL1Loss(
  input: Tensor,
  target: Tensor,
  options: LossOptions & { beta?: number } = {},
): Tensor {
  const { beta = 1, reduction } = checked("smoothL1Loss", options, "beta");
  checkPositive("smoothL1Loss", "beta", beta);
  return mul(huberLoss(input, target, { delta: beta, ...(reduction && { reduction }) }), 1 / beta);
}

/** Binary cross-entropy of sigmoid(input) against targets in [0, 1], safe for logits of any size. */
export function bceWithLogitsLoss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  const { reduction } = checked("bceWithLogitsLoss", options);
  assertAlike("bceWithLogitsLoss", input, target);
  return reduce("bceWithLogitsLoss", bceWithLogits(input, target), reduction);
}

/** Binary cross-entropy of probabilities; logarithms are at least -100 and slopes at most 1e12, as in PyTorch. */
export function bceLoss(input: Tensor, target: Tensor, options: LossOptions = {}): Tensor {
  const { reduction } = checked("bceLoss", options);
  assertAlike("bceLoss", input, target);
  const held = (p: Tensor) => clamp(log(p), -100);
  const [terms] = custom(
    "bce",
    [input, target],
    () => {
      const missed = mul(sub(1, target), held(sub(1, input)));
      return { outputs: [neg(add(mul(target, held(input)), missed))] };
    },
    ([dy]) => {
      const slope = div(sub(input, target), clamp(mul(input, sub(1, input)), 1e-12));
      return dy ? [mul(dy, slope), mul(dy, sub(log(sub(1, input)), log(input)))] : [null, null];
    },
  );
  return reduce("bceLoss", terms, reduction);
}

export interface NllOptions extends LossOptions {
  /** Rows with this target have no loss and do not count in the mean; -100 by default. */
  ignoreIndex?: number;
  /** The factor of each class, [C]; the mean divides by the sum of the targets' factors. */
  weight?: Tensor;
}

export interface CrossEntropyLossOptions extends NllOptions {
  /** Part of the target's weight that is spread evenly over all classes (Szegedy et al. 2015). */
  labelSmoothing?: number;
}

/** [N, C, d...] as rows [N * d..., C], or a vector [C] as one row. */
function classesLast(input: Tensor): Tensor {
  const { shape, rank } = input;
  const order = [0, ...shape.map((_, i) => i).slice(2), 1];
  return reshape(rank > 2 ? permute(input, order) : input, [-1, shape[rank > 1 ? 1 : 0]]);
}

function checkClasses(
  name: string,
  input: Tensor,
  target: Tensor,
  { weight, ignoreIndex }: NllOptions,
): void {
  for (const t of [input, target, ...(weight ? [weight] : [])]) rankOf(name, t);
  if (ignoreIndex !== undefined) checkWhole(name, "ignoreIndex", ignoreIndex);
  const { shape } = input;
  const rows = shape.length > 1 ? [shape[0], ...shape.slice(2)] : [];
  const classes = shape[shape.length > 1 ? 1 : 0];
  const fits = isFloat(input.dtype) && isIndex(target) && sameShape(target.shape, rows);
  if (shape.length === 0 || !fits || (weight && !sameShape(weight.shape, [classes])))
    throw opError(
      name,
      [input, target, ...(weight ? [weight] : [])],
      "expected float input [N, C, d...] with i32 or u32 targets [N, d...] and, where given, weight [C]",
    );
}

/** Reduces the losses of rows; the mean divides by the sum of the rows' factors. */
function reduceRows(
  name: string,
  losses: Tensor,
  target: Tensor,
  reduction: Reduction | undefined,
  factors: Tensor,
): Tensor {
  if (reduction === "none") return reshape(losses, target.shape);
  if (reduction === "sum") return sum(losses);
  return reduction === undefined || reduction === "mean"
    ? div(sum(losses), sum(factors))
    : reduce(name, losses, reduction);
}

/** For each row: whether it counts, its class (0 where it does not), and its factor in the mean. */
function countedRows(target: Tensor, { weight, ignoreIndex = -100 }: NllOptions) {
  const flat = reshape(target, [target.size]);
  const counted = ne(flat, ignoreIndex);
  const classes = where(counted, flat, 0);
  const factors = weight ? mul(indexSelect(weight, 0, classes), counted) : cast(counted, "f32");
  return { counted, classes, factors };
}

/**
 * torch.nn.functional.nll_loss: minus the target's entry in log probabilities [N, C, d...] (or [C]), targets [N, d...]. A
 * target that is neither a class nor `ignoreIndex` gives NaN.
 */
export function nllLoss(input: Tensor, target: Tensor, options: NllOptions = {}): Tensor {
  checked("nllLoss", options, "ignoreIndex", "weight");
  checkClasses("nllLoss", input, target, options);
  const { counted, classes, factors } = countedRows(target, options);
  const entries = gather(classesLast(input), 1, reshape(classes, [classes.size, 1]));
  const losses = where(counted, mul(neg(reshape(entries, [classes.size])), factors), 0);
  return reduceRows("nllLoss", losses, target, options.reduction, factors);
}

/**
 * torch.nn.functional.cross_entropy: logits [N, C, d...] (or [C]) against class numbers [N, d...], or against
 * probabilities of the logits' shape. A number that is neither a class nor `ignoreIndex` gives NaN.
 */
export function crossEntropyLoss(
  input: Tensor,
  target: Tensor,
  options: CrossEntropyLossOptions = {},
): Tensor {
  const name = "crossEntropyLoss";
  checked(name, options, "labelSmoothing", "weight", "ignoreIndex");
  const { labelSmoothing = 0, weight, ignoreIndex = -100, reduction } = options;
  for (const t of [input, target]) rankOf(name, t);
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1))
    throw new KilnError(`${name}: labelSmoothing is ${labelSmoothing}; expected a number from 0 to 1`);
  if (isFloat(target.dtype)) return softTargets(name, input, target, options);
  checkClasses(name, input, target, options);
  const { counted, factors } = countedRows(target, options);
  const rows = classesLast(input);
  const flat = reshape(target, [target.size]);
  const plain = { ignoreIndex, reduction: "none" as const };
  if (!weight)
    return reduceRows(
      name,
      crossEntropy(rows, flat, { ...plain, labelSmoothing }),
      target,
      reduction,
      factors,
    );
  const hard = mul(crossEntropy(rows, flat, plain), factors);
  if (labelSmoothing === 0) return reduceRows(name, hard, target, reduction, factors);
  const even = where(counted, neg(sum(mul(logSoftmax(rows), weight), 1)), 0);
  const losses = add(mul(hard, 1 - labelSmoothing), mul(even, labelSmoothing / rows.shape[1]));
  return reduceRows(name, losses, target, reduction, factors);
}

function softTargets(name: string, input: Tensor, target: Tensor, options: CrossEntropyLossOptions): Tensor {
  const { labelSmoothing = 0, weight, reduction } = options;
  const classes = input.shape[input.rank > 1 ? 1 : 0];
  if (!sameShape(input.shape, target.shape) || (weight && !sameShape(weight.shape, [classes])))
    throw opError(
      name,
      [input, target],
      "expected probabilities of the logits' shape and, where given, weight [C]",
    );
  const wanted = mul(classesLast(target), 1 - labelSmoothing);
  const spread = labelSmoothing > 0 ? add(wanted, labelSmoothing / classes) : wanted;
  const scores = logSoftmax(classesLast(input));
  const losses = neg(sum(mul(weight ? mul(scores, weight) : scores, spread), 1));
  const shape = input.rank > 1 ? [input.shape[0], ...input.shape.slice(2)] : [];
  return reduce(name, reshape(losses, shape), reduction);
}

/**
 * KL divergence of softmax(input / T) from softmax(target / T) over the last axis, summed, divided by the first
 * extent and multiplied by T^2, which keeps gradients as large as at T = 1 (Hinton et al. 2015).
 * Both are logits.
 */
export function klDivLoss(input: Tensor, target: Tensor, temperature = 1): Tensor {
  checkPositive("klDivLoss", "the temperature", temperature);
  const logInput = logSoftmax(mul(input, 1 / temperature));
  const logTarget = logSoftmax(mul(target, 1 / temperature));
  const terms = mul(exp(logTarget), sub(logTarget, logInput));
  return mul(sum(terms), temperature ** 2 / input.shape[0]);
}

/**
 * For vectors on the last axis: 1 - cos(input, other) where `label` is 1, and max(0, cos(input, other) - margin) where it
 * is -1. Without labels every pair counts as 1.
 */
export function cosineEmbeddingLoss(
  input: Tensor,
  other: Tensor,
  label?: Tensor,
  options: LossOptions & { margin?: number } = {},
): Tensor {
  const { margin = 0, reduction } = checked("cosineEmbeddingLoss", options, "margin");
  const length = (t: Tensor) => add(sum(square(t), -1), 1e-12);
  const cosine = div(sum(mul(input, other), -1), sqrt(mul(length(input), length(other))));
  const alike = sub(1, cosine);
  const apart = clamp(sub(cosine, margin), 0);
  return reduce("cosineEmbeddingLoss", label ? where(gt(label, 0), alike, apart) : alike, reduction);
}

/** max(0, margin - label (first - second)): a `label` of 1 means that the first should rank higher, -1 the second. */
export function marginRankingLoss(
  first: Tensor,
  second: Tensor,
  label: Tensor,
  options: LossOptions & { margin?: number } = {},
): Tensor {
  const { margin = 0, reduction } = checked("marginRankingLoss", options, "margin");
  const short = sub(margin, mul(label, sub(first, second)));
  return reduce("marginRankingLoss", clamp(short, 0), reduction);
}

/**
 * max(0, |anchor - positive| - |anchor - negative| + margin) with Euclidean distances over the last axis. As in PyTorch,
 * 1e-6 is added to each difference.
 */
export function tripletMarginLoss(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: LossOptions & { margin?: number } = {},
): Tensor {
  const { margin = 1, reduction } = checked("tripletMarginLoss", options, "margin");
  const apart = (other: Tensor) => sqrt(sum(square(add(sub(anchor, other), 1e-6)), -1));
  const short = add(sub(apart(positive), apart(negative)), margin);
  return reduce("tripletMarginLoss", clamp(short, 0), reduction);
}
