import { checkOptions, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { batched, type PerAxis, padSpatial, perAxis, spatialWindows } from "../conv/op.ts";
import { windows } from "../conv/windows.ts";
import { cast, mul } from "../elementwise/index.ts";
import { gather } from "../gather/op.ts";
import { matmul } from "../matmul/index.ts";
import { argmax, mean, sum } from "../reduce/index.ts";
import { expand, reshape, squeeze, transpose } from "../views/index.ts";

// Pooling over windows of [N, C, ...] or [C, ...], with the numbers of torch.nn.functional. Windows are views.

export interface MaxPoolOptions {
  /** Distance from one window to the next; the kernel size by default. */
  stride?: PerAxis;
  /** Elements added at both ends of an axis (-infinity or 0), at most half the kernel size; 0 by default. */
  padding?: PerAxis;
  dilation?: PerAxis;
  /** Whether windows that begin inside and end outside count; false by default. */
  ceilMode?: boolean;
}

export interface AvgPoolOptions extends Omit<MaxPoolOptions, "dilation"> {
  /** Whether padding counts as zeros; true by default. */
  countIncludePad?: boolean;
  /** What sums are divided by instead of the size of the window. */
  divisorOverride?: number;
}

interface Axis {
  size: number;
  stride: number;
  padding: number;
  dilation: number;
  /** Extent of the input. */
  extent: number;
  /** Number of windows. */
  count: number;
  /** Padding after the last element, so that the last window fits. */
  after: number;
}

/** The windows of each spatial axis of x. */
function axesOf(op: string, x: Tensor, n: number, kernelSize: PerAxis, options: MaxPoolOptions): Axis[] {
  const sizes = perAxis(op, "kernelSize", kernelSize, n, 1);
  const strides = perAxis(op, "stride", options.stride ?? sizes, n, 1);
  const paddings = perAxis(op, "padding", options.padding ?? 0, n, 0);
  const dilations = perAxis(op, "dilation", options.dilation ?? 1, n, 1);
  return sizes.map((size, i) => {
    const [stride, padding, dilation, extent] = [strides[i], paddings[i], dilations[i], x.shape[2 + i]];
    if (2 * padding > size)
      throw new KilnError(`${op}: padding ${padding} is more than half of the kernel size ${size}`);
    const span = dilation * (size - 1) + 1;
    const steps = (extent + 2 * padding - span) / stride;
    const floor = Math.floor(steps) + 1;
    // Rounded up, but a window must begin in the input or the padding before it.
    const ceil = Math.floor(steps) * stride + stride >= extent + padding ? floor : Math.ceil(steps) + 1;
    const count = options.ceilMode ? ceil : floor;
    if (count < 1)
      throw opError(op, [x], `a window spans ${span} of the ${extent + 2 * padding} elements of an axis`);
    const after = Math.max(padding, (count - 1) * stride + span - extent - padding);
    return { size, stride, padding, dilation, extent, count, after };
  });
}

/** [N, C, O..., K]: the windows of x with one axis for their elements. */
function listWindows(x: Tensor, axes: readonly Axis[], value: number): Tensor {
  const padded = padSpatial(
    x,
    axes.map(({ padding, after }) => [padding, after]),
    value,
  );
  const of = (key: "size" | "stride" | "dilation") => axes.map((axis) => axis[key]);
  const view = spatialWindows(padded, of("size"), of("stride"), of("dilation"));
  return reshape(view, [...view.shape.slice(0, 2 + axes.length), -1]);
}

const poolOptions = ["stride", "padding", "ceilMode"];

function maxPool(op: string, n: number, x: Tensor, kernelSize: PerAxis, options: MaxPoolOptions) {
  checkOptions(op, options, [...poolOptions, "dilation"]);
  let indices: Tensor | undefined;
  const values = batched(op, x, n + 2, (input) => {
    const axes = axesOf(op, input, n, kernelSize, options);
    const lists = listWindows(input, axes, Number.NEGATIVE_INFINITY);
    const best = argmax(lists, -1, true);
    const plane = axes.map(({ extent }) => extent);
    const places = tensor(
      Int32Array.from({ length: numel(plane) }, (_, i) => i),
      [1, 1, ...plane],
      "i32",
      x.device,
    );
    const found = gather(expand(listWindows(places, axes, -1), lists.shape), -1, best);
    indices = reshape(found, [...x.shape.slice(0, -n), ...lists.shape.slice(2, -1)]);
    return squeeze(gather(lists, -1, best), -1);
  });
  return { values, indices: indices! };
}

function avgPool(op: string, n: number, x: Tensor, kernelSize: PerAxis, options: AvgPoolOptions): Tensor {
  const own = [...poolOptions, "countIncludePad", "divisorOverride"];
  const { countIncludePad = true, divisorOverride } = checkOptions(op, options, own);
  if (divisorOverride !== undefined && !(Math.abs(divisorOverride) > 0 && Number.isFinite(divisorOverride)))
    throw new KilnError(`${op}: divisorOverride is ${divisorOverride}; expected a number other than 0`);
  return batched(op, x, n + 2, (input) => {
    const axes = axesOf(op, input, n, kernelSize, options);
    const padded = padSpatial(
      input,
      axes.map(({ padding, after }) => [padding, after]),
    );
    // One axis after the other: the mean over a box is the mean of means over its sides.
    const pooled = axes.reduce((t, axis, i) => {
      const sums = sum(windows(t, 2 + i, axis.size, axis.stride), -1);
      if (divisorOverride !== undefined) return sums;
      const shares = Array.from({ length: axis.count }, (_, w) => 1 / elementsOf(axis, w, countIncludePad));
      const shape = sums.shape.map((_, d) => (d === 2 + i ? axis.count : 1));
      return mul(sums, cast(tensor(shares, shape, "f32", x.device), sums.dtype));
    }, padded);
    return divisorOverride === undefined ? pooled : mul(pooled, 1 / divisorOverride);
  });
}

/** How many elements of window `w` count: those of the input and, where it counts, of the padding at both ends. */
function elementsOf({ size, stride, padding, extent }: Axis, w: number, countIncludePad: boolean): number {
  const [low, high] = countIncludePad ? [-padding, extent + padding] : [0, extent];
  const start = w * stride - padding;
  return Math.min(start + size, high) - Math.max(start, low);
}

/** Averages each of `out` parts of axis `dim`; parts overlap by an element where the extent is not a multiple. */
function adaptiveAxis(x: Tensor, dim: number, out: number): Tensor {
  const extent = x.shape[dim];
  if (extent % out === 0)
    return mean(
      reshape(x, [...x.shape.slice(0, dim), out, extent / out, ...x.shape.slice(dim + 1)]),
      dim + 1,
    );
  const weights = Array.from({ length: extent * out }, (_, i) => {
    const [row, column] = [Math.floor(i / out), i % out];
    const [start, end] = [Math.floor((column * extent) / out), Math.ceil(((column + 1) * extent) / out)];
    return row >= start && row < end ? 1 / (end - start) : 0;
  });
  const matrix = cast(tensor(weights, [extent, out], "f32", x.device), x.dtype);
  return transpose(matmul(transpose(x, dim, -1), matrix), dim, -1);
}

function adaptiveAvgPool(op: string, n: number, x: Tensor, outputSize: number | readonly (number | null)[]) {
  const sizes = typeof outputSize === "number" ? new Array<number>(n).fill(outputSize) : outputSize;
  return batched(op, x, n + 2, (input) => {
    const target = perAxis(
      op,
      "outputSize",
      sizes.map((size, i) => size ?? input.shape[2 + i]),
      n,
      1,
    );
    if (input.shape.slice(2).includes(0)) throw opError(op, [x], "an axis has no elements to average");
    return target.reduce((t, size, i) => adaptiveAxis(t, 2 + i, size), input);
  });
}

/** torch.nn.functional.max_pool1d: the largest element of each window of x [N, C, L]. The first one takes the gradient. */
export const maxPool1d = (x: Tensor, kernelSize: PerAxis, options: MaxPoolOptions = {}): Tensor =>
  maxPool("maxPool1d", 1, x, kernelSize, options).values;

/** torch.nn.functional.max_pool2d: the largest element of each window of x [N, C, H, W]. The first one takes the gradient. */
export const maxPool2d = (x: Tensor, kernelSize: PerAxis, options: MaxPoolOptions = {}): Tensor =>
  maxPool("maxPool2d", 2, x, kernelSize, options).values;

/** maxPool2d and the place of each maximum in its plane, row * W + column (i32). */
export const maxPool2dWithIndices = (x: Tensor, kernelSize: PerAxis, options: MaxPoolOptions = {}) =>
  maxPool("maxPool2dWithIndices", 2, x, kernelSize, options);

/** torch.nn.functional.avg_pool1d: the mean of each window of x [N, C, L]. */
export const avgPool1d = (x: Tensor, kernelSize: PerAxis, options: AvgPoolOptions = {}): Tensor =>
  avgPool("avgPool1d", 1, x, kernelSize, options);

/** torch.nn.functional.avg_pool2d: the mean of each window of x [N, C, H, W]. */
export const avgPool2d = (x: Tensor, kernelSize: PerAxis, options: AvgPoolOptions = {}): Tensor =>
  avgPool("avgPool2d", 2, x, kernelSize, options);

/** torch.nn.functional.adaptive_avg_pool1d: means of `outputSize` parts of x [N, C, L]. */
export const adaptiveAvgPool1d = (x: Tensor, outputSize: number | readonly (number | null)[]): Tensor =>
  adaptiveAvgPool("adaptiveAvgPool1d", 1, x, outputSize);

/** torch.nn.functional.adaptive_avg_pool2d: means of parts of x [N, C, H, W]; null keeps an axis. */
export const adaptiveAvgPool2d = (x: Tensor, outputSize: number | readonly (number | null)[]): Tensor =>
  adaptiveAvgPool("adaptiveAvgPool2d", 2, x, outputSize);
