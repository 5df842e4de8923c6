import { KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { checkList, checkWhole, normalizeDim, rankOf } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { cat } from "../pad/index.ts";
import {
  expand,
  flatten,
  narrow,
  permute,
  reshape,
  select,
  split,
  transpose,
  unsqueeze,
} from "../views/index.ts";

// Rearrangements made of views, with a copy at most.

const listOf = (value: number | readonly number[]) => (typeof value === "number" ? [value] : value);

/** x moved by `shifts` along `dims`; what leaves at one end enters at the other. Without `dims` the flattened tensor is moved. */
export function roll(
  x: Tensor,
  shifts: number | readonly number[],
  dims?: number | readonly number[] | null,
): Tensor {
  rankOf("roll", x);
  const by = listOf(shifts);
  checkList("roll", "shifts", by);
  if (dims === undefined || dims === null) {
    if (by.length !== 1) throw new KilnError("roll: without dims there is one shift; give one for each axis");
    return reshape(roll(flatten(x), by, [0]), x.shape);
  }
  const axes = listOf(dims);
  checkList("roll", "axes", axes);
  if (by.length !== axes.length)
    throw new KilnError(`roll: ${by.length} shifts for ${axes.length} axes; give one for each`);
  return by.reduce((t, shift, i) => rollAxis(t, shift, axes[i]), x);
}

function rollAxis(x: Tensor, shift: number, dim: number): Tensor {
  const axis = normalizeDim("roll", dim, x);
  checkWhole("roll", "a shift", shift);
  const extent = x.shape[axis] ?? 1;
  const start = extent === 0 ? 0 : (extent - (shift % extent)) % extent;
  if (start === 0) return x;
  return cat([narrow(x, axis, start, extent - start), narrow(x, axis, 0, start)], axis);
}

/** x laid out `counts[i]` times along axis i. Missing leading counts are 1, missing leading axes are added; NumPy's tile. */
export function tile(x: Tensor, counts: number | readonly number[]): Tensor {
  rankOf("tile", x);
  const list = listOf(counts);
  checkList("tile", "counts", list);
  for (const count of list) checkWhole("tile", "a count", count, 0);
  const rank = Math.max(x.rank, list.length);
  const shape = [...new Array<number>(rank - x.rank).fill(1), ...x.shape];
  const times = [...new Array<number>(rank - list.length).fill(1), ...list];
  const pairs = reshape(
    x,
    shape.flatMap((extent) => [1, extent]),
  );
  const repeated = expand(
    pairs,
    shape.flatMap((extent, i) => [times[i], extent]),
  );
  return reshape(
    repeated,
    shape.map((extent, i) => times[i] * extent),
  );
}

/** x laid out `counts[i]` times along axis i, with at least one count for each axis; as `repeat` of a PyTorch tensor. */
export function repeat(x: Tensor, counts: number | readonly number[]): Tensor {
  const list = listOf(counts);
  checkList("repeat", "counts", list);
  if (list.length < rankOf("repeat", x))
    throw opError("repeat", [x], `expected a count for each axis, got [${list}]`);
  return tile(x, list);
}

/** Each element `times` times in a row along `dim`, or along the flattened tensor. */
export function repeatInterleave(x: Tensor, times: number, dim?: number | null): Tensor {
  rankOf("repeatInterleave", x);
  if (dim === undefined || dim === null) return repeatInterleave(flatten(x), times, 0);
  const axis = normalizeDim("repeatInterleave", dim, x);
  checkWhole("repeatInterleave", "the number of times", times, 0);
  if (x.rank === 0) throw opError("repeatInterleave", [x], "has no axis to repeat along");
  const shape = [...x.shape.slice(0, axis + 1), times, ...x.shape.slice(axis + 1)];
  return reshape(
    expand(unsqueeze(x, axis + 1), shape),
    x.shape.map((n, i) => (i === axis ? n * times : n)),
  );
}

/** At most `chunks` pieces of axis `dim`, all of ceil(extent / chunks) elements but the last, which may be shorter. */
export function chunk(x: Tensor, chunks: number, dim = 0): Tensor[] {
  const axis = normalizeDim("chunk", dim, x);
  checkWhole("chunk", "the number of chunks", chunks, 1);
  const extent = x.shape[axis];
  if (extent === undefined) throw opError("chunk", [x], "has no axis to cut");
  return extent === 0 ? new Array<Tensor>(chunks).fill(x) : split(x, Math.ceil(extent / chunks), axis);
}

/** The slices of axis `dim`, each without that axis. */
export function unbind(x: Tensor, dim = 0): Tensor[] {
  const axis = normalizeDim("unbind", dim, x);
  if (x.rank === 0) throw opError("unbind", [x], "has no axis to take apart");
  return Array.from({ length: x.shape[axis] }, (_, i) => select(x, axis, i));
}

/** The axes `from` at the places `to` of the result; the others keep their order. */
export function movedim(x: Tensor, from: number | readonly number[], to: number | readonly number[]): Tensor {
  rankOf("movedim", x);
  const [sources, targets] = [from, to].map((dims) => {
    checkList("movedim", "axes", listOf(dims));
    return listOf(dims).map((d) => normalizeDim("movedim", d, x));
  });
  const distinct = new Set(sources).size === sources.length && new Set(targets).size === targets.length;
  if (sources.length !== targets.length || !distinct)
    throw opError("movedim", [x], `cannot move axes [${sources}] to [${targets}]`);
  const rest = x.shape.map((_, i) => i).filter((i) => !sources.includes(i));
  const order = x.shape.map((_, i) => (targets.includes(i) ? sources[targets.indexOf(i)] : rest.shift()!));
  return permute(x, order);
}

/** Two axes exchanged. */
export const swapaxes = (x: Tensor, a: number, b: number) => transpose(x, a, b);
