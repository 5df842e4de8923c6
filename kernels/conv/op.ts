import { isFloat } from "../../core/dtype.ts";
import { checkOptions, describe, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { checkWhole, numel, rankOf } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { add } from "../elementwise/index.ts";
import { matmul } from "../matmul/index.ts";
import { pad } from "../pad/index.ts";
import { narrow, permute, reshape, transpose } from "../views/index.ts";
import { overlapAdd, windows } from "./windows.ts";

// Convolution as one matrix product over the windows of the input (im2col; Chellapilla et al. 2006): the windows are a
// view, their copy takes kernel-size times the input's memory. Derivatives of all orders are those of the parts.

/** One number for all spatial axes, or one for each. */
export type PerAxis = number | readonly number[];

export interface ConvOptions {
  /** Distance from one window to the next; 1 by default. */
  stride?: PerAxis;
  /** Zeros at both ends of an axis, 0 by default; "same" keeps the extents (stride 1 only), "valid" adds none. */
  padding?: PerAxis | "same" | "valid";
  /** Distance from one element of a window to the next; 1 by default. */
  dilation?: PerAxis;
  /** Input and output channels are split into so many groups that do not see each other; 1 by default. */
  groups?: number;
}

export interface ConvTransposeOptions extends ConvOptions {
  padding?: PerAxis;
  /** Rows added at the end of each axis of the result; less than stride or dilation. */
  outputPadding?: PerAxis;
}

/** A whole number for each of `n` spatial axes. */
export function perAxis(op: string, what: string, value: PerAxis, n: number, low: number): number[] {
  if (typeof value !== "number" && !Array.isArray(value))
    throw new KilnError(
      `${op}: ${what} is ${describe(value)}; expected a number, or one for each of ${n} axes`,
    );
  const list = typeof value === "number" ? new Array<number>(n).fill(value) : [...value];
  if (list.length !== n)
    throw new KilnError(
      `${op}: ${what} has ${list.length} numbers; expected one, or one for each of ${n} axes`,
    );
  for (const entry of list) checkWhole(op, what, entry, low);
  return list;
}

/** Runs `body` on x with a batch axis, which is added and removed where x has rank `rank` - 1. */
export function batched(op: string, x: Tensor, rank: number, body: (x: Tensor) => Tensor): Tensor {
  const given = rankOf(op, x);
  if (given === rank) return body(x);
  if (given !== rank - 1 || !isFloat(x.dtype))
    throw opError(op, [x], `expected a float tensor of rank ${rank}, or ${rank - 1} without a batch`);
  const y = body(reshape(x, [1, ...x.shape]));
  return reshape(y, y.shape.slice(1));
}

/** Pads each spatial axis of x [N, C, ...] by [before, after]. */
export function padSpatial(x: Tensor, counts: readonly (readonly [number, number])[], value = 0): Tensor {
  return pad(x, counts.toReversed().flat(), value);
}

/** Windows of every spatial axis: [N, C, E...] to [N, C, O..., K...]. A view. */
export function spatialWindows(
  x: Tensor,
  sizes: readonly number[],
  strides: readonly number[],
  dilations: readonly number[],
): Tensor {
  return sizes.reduce((view, size, i) => windows(view, 2 + i, size, strides[i], dilations[i]), x);
}

/** The inverse order of `spatialWindows`, summing where windows overlap: [N, C, O..., K...] to [N, C, E...]. */
function foldSpatial(
  x: Tensor,
  extents: readonly number[],
  strides: readonly number[],
  dilations: readonly number[],
): Tensor {
  return extents.reduceRight((sum, n, i) => overlapAdd(sum, 2 + i, n, strides[i], dilations[i]), x);
}

const axes = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);

/** Checks the weight against the channels of x and the groups, and the bias against the output channels. */
function checkConv(
  op: string,
  tensors: readonly Tensor[],
  n: number,
  groups: number,
  channels: { expected: number; divided: number; out: number },
): void {
  for (const t of tensors) rankOf(op, t);
  checkWhole(op, "groups", groups, 1);
  const [x, weight, bias] = tensors;
  const biasFits = !bias || (bias.rank === 1 && bias.size === channels.out);
  const fits = x.shape[1] === channels.expected && channels.divided % groups === 0 && biasFits;
  if (weight.rank !== n + 2 || !isFloat(x.dtype) || !isFloat(weight.dtype) || !fits) {
    const layout = op.includes("Transpose") ? "[in, out / groups, ...]" : "[out, in / groups, ...]";
    throw opError(
      op,
      tensors,
      `expected x [N, in, ...], weight ${layout} of rank ${n + 2} and bias [out], with in and out multiples of ${groups} groups`,
    );
  }
}

function addBias(y: Tensor, bias: Tensor | null | undefined, n: number): Tensor {
  return bias ? add(y, reshape(bias, [bias.size, ...new Array(n).fill(1)])) : y;
}

/** Zeros before and after each axis. "same" puts the odd one after, as PyTorch does. */
function convPadding(op: string, weight: Tensor, options: ConvOptions, dilations: number[]) {
  const { padding = 0, stride = 1 } = options;
  const n = dilations.length;
  if (typeof padding !== "string") return perAxis(op, "padding", padding, n, 0).map((p) => [p, p] as const);
  if (padding === "valid") return dilations.map(() => [0, 0] as const);
  if (padding !== "same" || perAxis(op, "stride", stride, n, 1).some((s) => s !== 1))
    throw new KilnError(
      `${op}: padding "${padding}" with stride ${stride}; "same" needs stride 1, or give numbers`,
    );
  return dilations.map((dilation, i) => {
    const total = dilation * (weight.shape[2 + i] - 1);
    return [Math.floor(total / 2), Math.ceil(total / 2)] as const;
  });
}

const convOptions = ["stride", "padding", "dilation", "groups"];

function convolution(n: number) {
  const op = `conv${n}d`;
  return (x: Tensor, weight: Tensor, bias?: Tensor | null, options: ConvOptions = {}): Tensor =>
    batched(op, x, n + 2, (input) => {
      rankOf(op, weight);
      const { stride = 1, dilation = 1, groups = 1 } = checkOptions(op, options, convOptions);
      const [out, perGroup] = weight.shape;
      const channels = { expected: perGroup * groups, divided: out, out };
      checkConv(op, [input, weight, ...(bias ? [bias] : [])], n, groups, channels);
      const dilations = perAxis(op, "dilation", dilation, n, 1);
      const padded = padSpatial(input, convPadding(op, weight, options, dilations));
      const sizes = weight.shape.slice(2);
      const view = spatialWindows(padded, sizes, perAxis(op, "stride", stride, n, 1), dilations);
      // [N, C, O..., K...] to [C, K..., N, O...]: one product over the images of the batch side by side.
      const [batch, , ...rest] = view.shape;
      const places = rest.slice(0, n);
      const columns = reshape(permute(view, [1, ...axes(2 + n, n), 0, ...axes(2, n)]), [
        groups,
        perGroup * numel(sizes),
        batch * numel(places),
      ]);
      const y = matmul(reshape(weight, [groups, out / groups, perGroup * numel(sizes)]), columns);
      return addBias(transpose(reshape(y, [out, batch, ...places]), 0, 1), bias, n);
    });
}

function transposedConvolution(n: number) {
  const op = `convTranspose${n}d`;
  return (x: Tensor, weight: Tensor, bias?: Tensor | null, options: ConvTransposeOptions = {}): Tensor =>
    batched(op, x, n + 2, (input) => {
      rankOf(op, weight);
      const { groups = 1 } = checkOptions(op, options, [...convOptions, "outputPadding"]);
      const [inChannels, perGroup, ...sizes] = weight.shape;
      const out = perGroup * groups;
      const channels = { expected: inChannels, divided: inChannels, out };
      checkConv(op, [input, weight, ...(bias ? [bias] : [])], n, groups, channels);
      const strides = perAxis(op, "stride", options.stride ?? 1, n, 1);
      const dilations = perAxis(op, "dilation", options.dilation ?? 1, n, 1);
      const padding = perAxis(op, "padding", options.padding ?? 0, n, 0);
      const added = perAxis(op, "outputPadding", options.outputPadding ?? 0, n, 0);
      if (added.some((rows, i) => rows >= Math.max(strides[i], dilations[i])))
        throw new KilnError(`${op}: outputPadding ${added}; each must be less than stride or dilation`);
      const [batch, , ...places] = input.shape;
      const extents = places.map(
        (count, i) => (count - 1) * strides[i] + dilations[i] * (sizes[i] - 1) + 1 + added[i],
      );
      const perImage = numel(places);
      const rows = reshape(transpose(input, 0, 1), [groups, inChannels / groups, batch * perImage]);
      const filters = reshape(weight, [groups, inChannels / groups, perGroup * numel(sizes)]);
      const columns = reshape(matmul(transpose(filters), rows), [out, ...sizes, batch, ...places]);
      // [C, K..., N, I...] to [N, C, I..., K...]; what the padding covers is cut off.
      const view = permute(columns, [n + 1, 0, ...axes(n + 2, n), ...axes(1, n)]);
      const whole = foldSpatial(view, extents, strides, dilations);
      const y = padding.reduce((t, p, i) => narrow(t, 2 + i, p, extents[i] - 2 * p), whole);
      return addBias(y, bias, n);
    });
}

/**
 * torch.nn.functional.conv1d: cross-correlation of x [N, in, L] (or [in, L]) with weight [out, in / groups, k], plus bias
 * [out], to [N, out, L']. Floats of any kind; sums in f32.
 */
export const conv1d = convolution(1);

/** torch.nn.functional.conv2d: x [N, in, H, W] (or [in, H, W]), weight [out, in / groups, kH, kW], bias [out]. */
export const conv2d = convolution(2);

/** torch.nn.functional.conv3d: x [N, in, D, H, W], weight [out, in / groups, kD, kH, kW], bias [out]. */
export const conv3d = convolution(3);

/**
 * torch.nn.functional.conv_transpose1d, the derivative of conv1d by its input: x [N, in, L] with weight
 * [in, out / groups, k] to [N, out, (L - 1) stride - 2 padding + dilation (k - 1) + outputPadding + 1].
 */
export const convTranspose1d = transposedConvolution(1);

/** torch.nn.functional.conv_transpose2d: x [N, in, H, W], weight [in, out / groups, kH, kW], bias [out]. */
export const convTranspose2d = transposedConvolution(2);

export interface UnfoldOptions {
  dilation?: PerAxis;
  padding?: PerAxis;
  stride?: PerAxis;
}

const unfoldSettings = (op: string, options: UnfoldOptions) => {
  const { dilation = 1, padding = 0, stride = 1 } = checkOptions(op, options, convOptions.slice(0, 3));
  return {
    dilations: perAxis(op, "dilation", dilation, 2, 1),
    paddings: perAxis(op, "padding", padding, 2, 0),
    strides: perAxis(op, "stride", stride, 2, 1),
  };
};

/** torch.nn.functional.unfold (im2col): x [N, C, H, W] to [N, C kH kW, windows]. */
export function unfold(x: Tensor, kernelSize: PerAxis, options: UnfoldOptions = {}): Tensor {
  const sizes = perAxis("unfold", "kernelSize", kernelSize, 2, 1);
  const { dilations, paddings, strides } = unfoldSettings("unfold", options);
  return batched("unfold", x, 4, (input) => {
    const padded = padSpatial(
      input,
      paddings.map((p) => [p, p]),
    );
    const view = spatialWindows(padded, sizes, strides, dilations);
    const [batch, channels, high, wide] = view.shape;
    return reshape(permute(view, [0, 1, 4, 5, 2, 3]), [batch, channels * numel(sizes), high * wide]);
  });
}

/** torch.nn.functional.fold (col2im): x [N, C kH kW, windows] summed into images [N, C, ...outputSize]. */
export function fold(
  x: Tensor,
  outputSize: PerAxis,
  kernelSize: PerAxis,
  options: UnfoldOptions = {},
): Tensor {
  const sizes = perAxis("fold", "kernelSize", kernelSize, 2, 1);
  const { dilations, paddings, strides } = unfoldSettings("fold", options);
  const extents = perAxis("fold", "outputSize", outputSize, 2, 1).map(
    (extent, i) => extent + 2 * paddings[i],
  );
  const counts = extents.map((n, i) => Math.floor((n - dilations[i] * (sizes[i] - 1) - 1) / strides[i]) + 1);
  return batched("fold", x, 3, (input) => {
    const [batch, rows, columns] = input.shape;
    if (rows % numel(sizes) !== 0 || columns !== numel(counts) || counts.some((count) => count < 1))
      throw opError(
        "fold",
        [x],
        `expected [N, a multiple of ${numel(sizes)}, ${counts.join(" x ")} windows]`,
      );
    const split = reshape(input, [batch, rows / numel(sizes), ...sizes, ...counts]);
    const whole = foldSpatial(permute(split, [0, 1, 4, 5, 2, 3]), extents, strides, dilations);
    return paddings.reduce((t, p, i) => narrow(t, 2 + i, p, extents[i] - 2 * p), whole);
  });
}
