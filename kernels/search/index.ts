import { type HostArray, isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { defineOp, type Op, opError, type SampleInput } from "../../core/op.ts";
import { broadcastShapes, checkWhole, numel, rankOf, sameShape } from "../../core/shape.ts";
import { apply, full, type Tensor } from "../../core/tensor.ts";
import { arange } from "../creation/index.ts";
import { ne, sub } from "../elementwise/index.ts";
import { isIndex } from "../embedding/op.ts";
import { gather, indexAdd, indexSelect } from "../gather/op.ts";
import { foldGrid } from "../include/grid.ts";
import { cat, stack } from "../pad/index.ts";
import { amax, amin, cumsum, sort } from "../reduce/index.ts";
import { computeType } from "../reduce/lower.ts";
import { expand, flatten, narrow, reshape } from "../views/index.ts";

interface SearchAttrs {
  readonly right: boolean;
}

const searchsortedOp: Op<SearchAttrs> = defineOp<SearchAttrs>({
  name: "searchsorted",
  doc: "How many elements of the sorted row [..., n] go before each value [..., m] of the same row (i32): those below it, with right also those equal to it. NaN counts as larger than +infinity, as in sort.",
  infer(inputs) {
    const [sorted, values] = inputs;
    const rows = sorted.shape.slice(0, -1);
    const fits = sorted.shape.length > 0 && values?.shape.length === sorted.shape.length;
    if (!fits || !sameShape(rows, values.shape.slice(0, -1)) || values.dtype !== sorted.dtype)
      throw opError(
        "searchsorted",
        inputs,
        "expected a sorted vector, or sorted rows as many as those of the values, of the dtype of the values",
      );
    return [{ shape: values.shape, dtype: "i32" }];
  },
  reference([sorted, values], { right }, [out]) {
    const [n, m] = [sorted.shape.at(-1)!, values.shape.at(-1)!];
    const before = (a: number, b: number) => a < b || (Number.isNaN(b) && !Number.isNaN(a));
    values.data.forEach((value, i) => {
      const start = Math.floor(i / m) * n;
      const row = sorted.data.subarray(start, start + n);
      const end = row.findIndex((element) => (right ? before(value, element) : !before(element, value)));
      out.data[i] = end < 0 ? n : end;
    });
  },
  notDifferentiable: "a place is not continuous",
  file: "search/searchsorted.wgsl",
  plan({ inputs: [sorted, values], attrs: { right }, profile }) {
    const size = numel(values.shape);
    const S = computeType(sorted.dtype);
    return {
      defines: { RIGHT: right, FLOAT: S === "f32", S, V: S, VB: "bool", VU: "u32" },
      params: { size, n: sorted.shape.at(-1)!, m: values.shape.at(-1)! },
      grid: foldGrid(Math.ceil(size / 64), profile),
    };
  },
  samples: () => {
    const of = (name: string, sorted: SampleInput, values: SampleInput, right: boolean) => ({
      name,
      inputs: [sorted, values],
      attrs: { right },
    });
    // Planted values would leave the rows unsorted.
    const finite = "rows must be sorted";
    const ties: SampleInput = { shape: [3, 4], dtype: "i32", values: [-3, 0, 0, 2] };
    return [
      of("left", { shape: [2, 5], values: [-1, 0, 0, 0.5, 2], finite }, { shape: [2, 9] }, false),
      of("right, ties", ties, { shape: [3, 7], dtype: "i32", range: [-4, 3] }, true),
      of("among nothing", { shape: [0], finite: "it is empty" }, { shape: [3] }, true),
    ];
  },
});

/**
 * torch.searchsorted: where each value would be inserted into the sorted row (i32): before the elements equal to it, with
 * `right` behind them. `sorted` is a vector, for values of any shape, or [..., n] for values [..., m].
 */
export function searchsorted(sorted: Tensor, values: Tensor, right = false): Tensor {
  const flat = rankOf("searchsorted", sorted) === 1 && rankOf("searchsorted", values) !== 1;
  const found = apply(searchsortedOp, [sorted, flat ? flatten(values) : values], { right })[0];
  return flat ? reshape(found, values.shape) : found;
}

/** The indices (i32) that put the elements along `dim` in order. Stable; NaN counts as larger than +infinity. */
export const argsort = (x: Tensor, dim = -1, descending = false) => sort(x, dim, descending).indices;

// The shapes of the following depend on values: they read them back, and hence give promises.

/** The values of `t`; an error inside a compiled step, which has none. */
function readBack(op: string, t: Tensor): Promise<HostArray> {
  if (t.storage.handle === null)
    throw new KilnError(
      `${op}: the shape of its result depends on values, which a compiled step does not have; call it outside of the step`,
    );
  return t.data();
}

/** Where a vector of truth values is true (i32), in order: the first places at which enough of them are. */
function positions(op: string, flags: Tensor): Promise<Tensor> {
  const { device } = flags;
  if (flags.size === 0) return Promise.resolve(arange(0, 0, 1, "i32", device));
  const running = cumsum(flags, 0);
  const total = readBack(op, narrow(running, 0, flags.size - 1, 1));
  return total.then(([count]) => searchsorted(running, arange(1, count + 1, 1, "i32", device)));
}

/** The indices [count, rank] (i32) of the elements other than 0, in row-major order; outside of compiled steps only. */
export function nonzero(x: Tensor): Promise<Tensor> {
  const rank = rankOf("nonzero", x);
  const { shape, device } = x;
  return positions("nonzero", flatten(ne(x, 0))).then((at) => {
    if (rank === 0) return full([at.size, 0], 0, "i32", device);
    const coordinate = (axis: number) => {
      const along = shape.map((extent, i) => (i === axis ? extent : 1));
      const each = reshape(arange(0, shape[axis], 1, "i32", device), along);
      return gather(flatten(expand(each, shape)), 0, at);
    };
    return stack(
      shape.map((_, axis) => coordinate(axis)),
      1,
    );
  });
}

/** The elements of x where `mask` (bool) holds, as a vector; both broadcast. Outside of compiled steps only. */
export function maskedSelect(x: Tensor, mask: Tensor): Promise<Tensor> {
  for (const t of [x, mask]) rankOf("maskedSelect", t);
  if (mask.dtype !== "bool") throw opError("maskedSelect", [x, mask], "the mask must be bool");
  const shape = broadcastShapes("maskedSelect", [x.shape, mask.shape]);
  const wide = flatten(expand(x, shape));
  return positions("maskedSelect", flatten(expand(mask, shape))).then((at) => indexSelect(wide, 0, at));
}

/**
 * The distinct elements in ascending order, the index of its value for each element of x (i32, its shape), and how often
 * each value occurs (i32). Every NaN is a value of its own. Outside of compiled steps only.
 */
export function unique(x: Tensor): Promise<{ values: Tensor; inverse: Tensor; counts: Tensor }> {
  const flat = flatten(x);
  const { values: sorted, indices } = sort(flat, 0);
  const { size, device } = flat;
  const start = full([Math.min(1, size)], 1, "bool", device);
  const differs = ne(
    narrow(sorted, 0, start.size, size - start.size),
    narrow(sorted, 0, 0, size - start.size),
  );
  const first = cat([start, differs]);
  return positions("unique", first).then((at) => {
    const rank = sub(cumsum(first, 0), 1);
    const ends = cat([
      narrow(at, 0, start.size, at.size - start.size),
      full([start.size], size, "i32", device),
    ]);
    return {
      values: indexSelect(sorted, 0, at),
      inverse: reshape(gather(rank, 0, argsort(indices, 0)), x.shape),
      counts: sub(ends, at),
    };
  });
}

/**
 * How often each whole number from 0 to the largest element of the vector x (i32 or u32, not negative) occurs, or the sum
 * of the float `weights` of its elements; of at least `minlength` numbers. Outside of compiled steps only.
 */
export function bincount(
  x: Tensor,
  { weights, minlength = 0 }: { weights?: Tensor; minlength?: number } = {},
): Promise<Tensor> {
  if (rankOf("bincount", x) !== 1 || !isIndex(x))
    throw opError("bincount", [x], "expected a vector, i32 or u32");
  checkWhole("bincount", "minlength", minlength, 0);
  if (weights && !(isFloat(weights.dtype) && sameShape(weights.shape, x.shape)))
    throw opError("bincount", [x, weights], "expected a float weight for each element");
  const ends = x.size === 0 ? x : stack([amin(x), amax(x)]);
  return readBack("bincount", ends).then(([low = 0, high = -1]) => {
    if (low < 0) throw new KilnError(`bincount: an element is ${low}; expected none below 0`);
    const length = Math.max(high + 1, minlength);
    if (weights) return indexAdd(full([length], 0, weights.dtype, x.device), 0, x, weights);
    const numbers = arange(0, length + 1, 1, x.dtype, x.device);
    const edges = searchsorted(sort(x, 0).values, numbers);
    return sub(narrow(edges, 0, 1, length), narrow(edges, 0, 0, length));
  });
}
