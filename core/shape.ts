import { describe, KilnError } from "./errors.ts";

/** Extents of a tensor, outermost first; [] is a scalar. */
export type Shape = readonly number[];

/** Number of elements. */
export function numel(shape: Shape): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Kernels count elements in 32 bits. */
const mostElements = 2 ** 32 - 1;

/** Throws unless `list` is an array. */
export function checkList(op: string, what: string, list: readonly unknown[]): void {
  if (Array.isArray(list)) return;
  const example = typeof list === "number" ? `: write [${list}] or [${list}, …]` : "";
  throw new KilnError(`${op}: expected a list of ${what}, got ${describe(list)}${example}`);
}

/** Throws unless `shape` is a list of whole extents whose elements can be counted. */
export function checkShape(op: string, shape: Shape): void {
  checkList(op, "extents", shape);
  if (shape.some((extent) => !Number.isSafeInteger(extent) || extent < 0)) {
    throw new KilnError(`${op}: extents must be whole numbers of 0 or more, not ${show(shape)}`);
  }
  if (numel(shape) > mostElements) {
    throw new KilnError(`${op}: ${show(shape)} has more elements than 32 bits can count; split it`);
  }
}

/** Throws unless `value` is a whole number from `low` to `high`. */
export function checkWhole(
  op: string,
  what: string,
  value: number,
  low = -(2 ** 31),
  high = 2 ** 31 - 1,
): void {
  if (Number.isInteger(value) && value >= low && value <= high) return;
  throw new KilnError(`${op}: ${what} is ${describe(value)}; expected a whole number from ${low} to ${high}`);
}

/** Row-major strides, in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

/** Whether a view reads consecutive elements in row-major order (axes of extent 1 never matter). */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i];
  }
  return true;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, i) => extent === b[i]);
}

/** `[2, 3]`, for messages. */
export function show(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** NumPy broadcasting of several shapes; throws a line that names the op and the shapes. */
export function broadcastShapes(op: string, shapes: readonly Shape[]): number[] {
  const rank = Math.max(0, ...shapes.map((s) => s.length));
  const out = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    const pad = rank - shape.length;
    shape.forEach((extent, i) => {
      if (extent === 1) return;
      if (out[pad + i] !== 1 && out[pad + i] !== extent) {
        throw new KilnError(
          `${op}: shapes ${shapes.map(show).join(" and ")} do not broadcast; each axis, counted from the right, must be equal or 1`,
        );
      }
      out[pad + i] = extent;
    });
  }
  return out;
}

/** Strides that read `shape` as if it were `target` (0 where it is repeated). */
export function broadcastStrides(shape: Shape, strides: readonly number[], target: Shape): number[] {
  const pad = target.length - shape.length;
  return target.map((_, i) => (i < pad || shape[i - pad] === 1 ? 0 : strides[i - pad]));
}

/** The rank of `x`; throws where it is no tensor. */
export function rankOf(op: string, x: { readonly shape: Shape }): number {
  if (Array.isArray(x?.shape)) return x.shape.length;
  throw new KilnError(`${op}: expected a tensor, got ${describe(x)}`);
}

/** A dimension index of `x` in 0..rank-1 from one that may count from the end; `added` axes count with those of x. */
export function normalizeDim(op: string, dim: number, x: { readonly shape: Shape }, added = 0): number {
  const rank = rankOf(op, x) + added;
  const range = Math.max(rank, 1);
  if (!Number.isInteger(dim) || dim < -range || dim >= range) {
    throw new KilnError(
      `${op}: dim ${dim} is out of range for a tensor of rank ${rank}; expected -${range} to ${range - 1}`,
    );
  }
  return dim < 0 ? dim + range : dim;
}

/** Dimension indices as an ascending list; none may be given twice, and null and undefined mean all. */
export function normalizeDims(
  op: string,
  dim: number | readonly number[] | null | undefined,
  x: { readonly shape: Shape },
): number[] {
  const rank = rankOf(op, x);
  if (dim === null || dim === undefined) return Array.from({ length: rank }, (_, i) => i);
  const list = typeof dim === "number" ? [dim] : dim;
  checkList(op, "axes", list);
  const found = list.map((d) => normalizeDim(op, d, x)).sort((a, b) => a - b);
  const twice = found.find((d, i) => d === found[i - 1]);
  if (twice !== undefined) throw new KilnError(`${op}: dim ${twice} is given twice in [${list}]`);
  return found.filter((d) => d < rank);
}

/**
 * Merges neighbouring axes that every one of the `strides` walks as one, and drops axes of extent 1:
 * kernels then loop over as few axes as the data allows.
 */
export function collapseAxes(shape: Shape, strides: readonly (readonly number[])[]) {
  const outShape: number[] = [];
  const outStrides: number[][] = strides.map(() => []);
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const last = outShape.length - 1;
    const merges = last >= 0 && strides.every((s, k) => outStrides[k][last] === s[axis] * extent);
    if (merges) {
      outShape[last] *= extent;
      strides.forEach((s, k) => {
        outStrides[k][last] = s[axis];
      });
      return;
    }
    outShape.push(extent);
    strides.forEach((s, k) => {
      outStrides[k].push(s[axis]);
    });
  });
  if (outShape.length === 0) {
    outShape.push(1);
    for (const s of outStrides) s.push(0);
  }
  return { shape: outShape, strides: outStrides };
}
