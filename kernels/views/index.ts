import { KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import {
  checkList,
  checkShape,
  checkWhole,
  contiguousStrides,
  normalizeDim,
  normalizeDims,
  numel,
  rankOf,
  type Shape,
  sameShape,
  show,
} from "../../core/shape.ts";
import { recordView, type Tensor } from "../../core/tensor.ts";
import { copy } from "../elementwise/index.ts";
import { place } from "../pad/place.ts";
import { expand } from "../reduce/sum.ts";
import { dropAxes, insertAxes } from "./axes.ts";

export { expand } from "../reduce/sum.ts";

// Views share memory with their input. Each one's derivative is again made of views (and `place`), so all orders exist.

/** The tensor itself where it is row-major already, else a row-major copy. */
export function contiguous(x: Tensor): Tensor {
  rankOf("contiguous", x);
  return x.contiguous ? x : copy(x);
}

/** x repeated to fill `shape`, as NumPy's broadcast_to. */
export const broadcastTo = expand;

/**
 * The same elements in row-major order under another shape; one extent may be -1. A view where the memory allows,
 * a copy otherwise.
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  rankOf("reshape", x);
  const target = inferExtent(x, shape);
  if (sameShape(target, x.shape)) return x;
  const strides = viewStrides(x, target);
  if (!strides) return reshape(copy(x), target);
  return recordView(x.asStrided(target, strides, x.offset), x, "reshape", (dy) => reshape(dy, x.shape));
}

function inferExtent(x: Tensor, shape: Shape): number[] {
  checkList("reshape", "extents", shape);
  checkShape(
    "reshape",
    shape.filter((extent) => extent !== -1),
  );
  const known = numel(shape.filter((extent) => extent !== -1));
  const open = shape.filter((extent) => extent === -1).length;
  const target = shape.map((extent) => (extent === -1 ? x.size / known : extent));
  if (open > 1 || numel(target) !== x.size || !target.every(Number.isInteger)) {
    throw opError("reshape", [x], `its ${x.size} elements do not fill ${show(shape)}`);
  }
  return target;
}

/** Strides under which x's memory reads as `target`, or null where it must be copied. */
function viewStrides(x: Tensor, target: Shape): number[] | null {
  if (x.contiguous) return contiguousStrides(target);
  const strides = new Array<number>(target.length).fill(0);
  let t = target.length - 1;
  let axis = x.shape.length - 1;
  while (axis >= 0) {
    // A run of axes that is walked with one step.
    let extent = x.shape[axis];
    const step = x.strides[axis];
    while (axis > 0 && (x.shape[axis - 1] === 1 || x.strides[axis - 1] === step * extent))
      extent *= x.shape[--axis];
    axis--;
    let filled = 1;
    while (t >= 0 && (filled < extent || target[t] === 1)) {
      strides[t] = step * filled;
      filled *= target[t--];
    }
    if (filled !== extent) return null;
  }
  return strides;
}

/** Joins the axes from `start` to `end` (inclusive) into one. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  if (rankOf("flatten", x) === 0) return reshape(x, [1]);
  const first = normalizeDim("flatten", start, x);
  const last = normalizeDim("flatten", end, x);
  return reshape(x, [
    ...x.shape.slice(0, first),
    numel(x.shape.slice(first, last + 1)),
    ...x.shape.slice(last + 1),
  ]);
}

/** Axes in another order: axis i of the result is axis dims[i] of x. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  checkList("permute", "axes", dims);
  const order = dims.map((d) => normalizeDim("permute", d, x));
  if (order.length !== x.shape.length || new Set(order).size !== order.length) {
    throw opError("permute", [x], `expected each of its ${x.shape.length} axes once, got [${dims}]`);
  }
  if (order.every((d, i) => d === i)) return x;
  const view = x.asStrided(
    order.map((d) => x.shape[d]),
    order.map((d) => x.strides[d]),
    x.offset,
  );
  return recordView(view, x, "permute", (dy) =>
    permute(
      dy,
      order.map((_, i) => order.indexOf(i)),
    ),
  );
}

/** Two axes exchanged; the last two when not given. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const first = normalizeDim("transpose", a, x);
  const second = normalizeDim("transpose", b, x);
  const order = x.shape.map((_, i) => i);
  order[first] = second;
  order[second] = first;
  return permute(x, order);
}

/** Without the axes `dim` (all where absent) that have extent 1. */
export function squeeze(x: Tensor, dim?: number | readonly number[]): Tensor {
  return dropAxes(
    x,
    normalizeDims("squeeze", dim, x).filter((d) => x.shape[d] === 1),
  );
}

/** With a new axis of extent 1 at `dim` of the result. */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  return insertAxes(x, [normalizeDim("unsqueeze", dim, x, 1)]);
}

/** Start, stop, step of one axis with Python's meaning; null or absent means the end in that direction. */
export type Slice = readonly [start?: number | null, stop?: number | null, step?: number | null];

/** What `slice` takes for an axis: a range, one index, ":" for all, "..." for the axes in between, null for a new axis. */
export type Range = Slice | number | ":" | "..." | null;

/**
 * A view of some elements of each axis, by Python's rules: `x[1:3, ::2, -1, ..., None]` is
 * `x.slice([1, 3], [null, null, 2], -1, "...", null)`. An index drops its axis; indices, starts and stops may count from
 * the end, steps may be negative; axes that are not mentioned stay whole.
 *
 * @throws KilnError for more ranges than axes, or an index outside of its axis
 */
export function slice(x: Tensor, ...ranges: Range[]): Tensor {
  const rank = rankOf("slice", x);
  const given = ranges.filter((range) => range !== null && range !== "...").length;
  if (given > rank) throw opError("slice", [x], `has no ${given} axes to slice`);
  if (ranges.indexOf("...") !== ranges.lastIndexOf("..."))
    throw opError("slice", [x], 'takes "..." once: what each of two stands for is open');
  const slices: Slice[] = [];
  const dropped: number[] = [];
  const added: number[] = [];
  const left = () => slices.length - dropped.length + added.length;
  for (const range of ranges) {
    const axis = slices.length;
    if (range === null) added.push(left());
    else if (range === "...") for (let i = given; i < rank; i++) slices.push([]);
    else if (typeof range === "number") {
      const index = checkIndex(range, x, axis);
      dropped.push(axis);
      slices.push([index, index + 1]);
    } else slices.push(range === ":" ? [] : range);
  }
  return insertAxes(dropAxes(sliceAxes(x, slices), dropped), added);
}

function checkIndex(index: number, x: Tensor, axis: number): number {
  const extent = x.shape[axis];
  if (Number.isInteger(index) && index >= -extent && index < extent)
    return index < 0 ? index + extent : index;
  throw opError("slice", [x], `axis ${axis} has ${extent} elements and none at ${index}`);
}

/** x[start:stop:step] of the leading axes. */
function sliceAxes(x: Tensor, slices: readonly Slice[]): Tensor {
  const shape = [...x.shape];
  const strides = [...x.strides];
  const starts = shape.map(() => 0);
  const steps = shape.map(() => 1);
  let offset = x.offset;
  slices.forEach((given, axis) => {
    checkList("slice", "start, stop and step", given);
    const { start, step, count } = resolveSlice(given, x.shape[axis]);
    // An empty slice may start at the end: the view must not point there.
    if (count > 0) offset += start * strides[axis];
    starts[axis] = start;
    steps[axis] = step;
    shape[axis] = count;
    strides[axis] *= step;
  });
  const view = x.asStrided(shape, strides, offset);
  return recordView(view, x, "slice", (dy) => place(dy, x.shape, starts, steps, 0));
}

function resolveSlice([from, to, by]: Slice, extent: number): { start: number; step: number; count: number } {
  const step = by ?? 1;
  if (!Number.isInteger(step) || step === 0)
    throw new KilnError(`slice: a step must be a whole number other than 0, not ${step}`);
  const low = step > 0 ? 0 : -1;
  const high = step > 0 ? extent : extent - 1;
  for (const [what, value] of [
    ["start", from],
    ["stop", to],
  ] as const)
    if (value !== null && value !== undefined) checkWhole("slice", what, value);
  const bound = (value: number) => Math.min(high, Math.max(low, value < 0 ? value + extent : value));
  const start = from === null || from === undefined ? (step > 0 ? low : high) : bound(from);
  const stop = to === null || to === undefined ? (step > 0 ? high : low) : bound(to);
  return { start, step, count: Math.max(0, Math.ceil((stop - start) / step)) };
}

/** `length` elements of axis `dim` from `start` on. */
export function narrow(x: Tensor, dim: number, start: number, length: number): Tensor {
  const axis = normalizeDim("narrow", dim, x);
  checkWhole("narrow", "start", start);
  checkWhole("narrow", "length", length);
  if (start < 0 || length < 0 || start + length > (x.shape[axis] ?? 0)) {
    throw opError("narrow", [x], `axis ${axis} has no elements ${start} to ${start + length}`);
  }
  return sliceAxes(
    x,
    x.shape.map((_, i): Slice => (i === axis ? [start, start + length] : [])),
  );
}

/** Entry `index` of axis `dim`, without that axis. */
export function select(x: Tensor, dim: number, index: number): Tensor {
  const axis = normalizeDim("select", dim, x);
  checkWhole("select", "index", index);
  return squeeze(narrow(x, axis, index < 0 ? index + x.shape[axis] : index, 1), axis);
}

/** Pieces of axis `dim`: of the given sizes, or of one size (the last may be shorter). */
export function split(x: Tensor, sizes: number | readonly number[], dim = 0): Tensor[] {
  const axis = normalizeDim("split", dim, x);
  const extent = x.shape[axis];
  if (extent === undefined) throw opError("split", [x], "has no axis to split");
  if (typeof sizes === "number") checkWhole("split", "the size", sizes, 1);
  const list =
    typeof sizes === "number"
      ? Array.from({ length: Math.ceil(extent / sizes) }, (_, i) => Math.min(sizes, extent - i * sizes))
      : sizes;
  if (list.reduce((a, b) => a + b, 0) !== extent)
    throw opError("split", [x], `sizes [${list}] do not add up to ${extent}`);
  let start = 0;
  return list.map((size) => {
    const piece = narrow(x, axis, start, size);
    start += size;
    return piece;
  });
}

/** The given axes in reverse order. */
export function flip(x: Tensor, dims: number | readonly number[]): Tensor {
  const axes = normalizeDims("flip", dims, x);
  const strides = x.strides.map((s, i) => (axes.includes(i) ? -s : s));
  const offset = axes.reduce((at, d) => at + Math.max(0, x.shape[d] - 1) * x.strides[d], x.offset);
  return recordView(x.asStrided(x.shape, strides, offset), x, "flip", (dy) => flip(dy, axes));
}
