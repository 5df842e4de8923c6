import { KilnError } from "../../core/errors.ts";
import {
  type Call,
  defineOp,
  type Lowering,
  type Op,
  opError,
  type Pass,
  type Sample,
} from "../../core/op.ts";
import { normalizeDim, numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { reshape, transpose } from "../views/index.ts";

export interface SortAttrs {
  /** How many elements of each row are kept. */
  readonly k: number;
  readonly descending: boolean;
}

/** Up to this row length, counting the smaller elements of each one beats sorting. */
const longestCounted = 1024;

const sortOp: Op<SortAttrs> = defineOp<SortAttrs>({
  name: "sort",
  doc: "The first k elements of each row (last axis) in order, and their indices (i32). Stable; NaN counts as larger than +infinity.",
  infer(inputs, { k }) {
    const { shape, dtype } = inputs[0];
    if (shape.length === 0 || !Number.isInteger(k) || k < 0 || k > shape.at(-1)!) {
      throw opError("sort", inputs, `expected rows of at least k = ${k} elements`);
    }
    const out = [...shape.slice(0, -1), k];
    return [
      { shape: out, dtype },
      { shape: out, dtype: "i32" },
    ];
  },
  reference([x], { k, descending }, [values, indices]) {
    const n = x!.shape.at(-1)!;
    for (let start = 0, to = 0; start < x!.data.length; start += n, to += k) {
      const row = x!.data.subarray(start, start + n);
      // NaN goes above +infinity: subtraction would call them equal.
      const above = (a: number, b: number) => a > b || (Number.isNaN(a) && !Number.isNaN(b));
      const order = Array.from(row, (_, i) => i).sort((a, b) => {
        const rank = Number(above(row[a], row[b])) - Number(above(row[b], row[a]));
        return (descending ? -rank : rank) || a - b;
      });
      for (let j = 0; j < k; j++) {
        values!.data[to + j] = row[order[j]];
        indices!.data[to + j] = order[j];
      }
    }
  },
  gradient({ inputs, outputs }, [dy]) {
    return [dy ? apply(scatterRows, [dy, outputs[1]], { width: inputs[0].shape.at(-1)! })[0] : null];
  },
  variants: [
    {
      name: "count",
      file: "reduce/sort_count.wgsl",
      when: ({ inputs }) => inputs[0].shape.at(-1)! <= longestCounted,
      plan: planCount,
    },
    { name: "bitonic", file: "reduce/sort_bitonic.wgsl", plan: planBitonic },
  ],
  secondOrder: true,
  samples: (): Sample<SortAttrs>[] => [
    { name: "descending", inputs: [{ shape: [6, 33] }], attrs: { k: 33, descending: true } },
    { name: "top", inputs: [{ shape: [2, 3, 17] }], attrs: { k: 4, descending: true } },
    {
      name: "ties",
      inputs: [{ shape: [3, 70], dtype: "i32", range: [-2, 2] }],
      attrs: { k: 70, descending: false },
    },
    { name: "long", inputs: [{ shape: [2, 1500] }], attrs: { k: 1500, descending: false }, gradcheck: false },
  ],
});

/** How the kernel makes keys of values: unsigned integers in the order of the values. */
function keyDefines(call: Call<SortAttrs>) {
  const { dtype } = call.inputs[0];
  const kind = dtype === "i32" ? "SIGNED" : dtype === "f32" || dtype === "f16" ? "FLOAT" : "UNSIGNED";
  return { [kind]: true, BEFORE: call.attrs.descending ? "a > b" : "a < b" };
}

function planCount(call: Call<SortAttrs>): Pass {
  const { shape } = call.inputs[0];
  const size = numel(shape);
  return {
    defines: keyDefines(call),
    params: { size, n: shape.at(-1)!, k: call.attrs.k },
    grid: foldGrid(Math.ceil(size / 64), call.profile),
  };
}

function planBitonic(call: Call<SortAttrs>): Lowering {
  const { shape } = call.inputs[0];
  const n = shape.at(-1)!;
  const rows = numel(shape.slice(0, -1));
  const width = 2 ** Math.ceil(Math.log2(Math.max(2, n)));
  const base = { rows, n, width, k: call.attrs.k, run: 0, distance: 0 };
  const defines = keyDefines(call);
  const step = (stage: string, count: number, more: object, bind: Pass["bind"]): Pass => ({
    defines: { ...defines, [stage]: true },
    params: { ...base, ...more },
    grid: foldGrid(Math.ceil(count / 64), call.profile),
    bind,
  });
  const passes = [step("LOAD", rows * width, {}, ["in0", "tmp0"])];
  for (let run = 2; run <= width; run *= 2) {
    for (let distance = run / 2; distance >= 1; distance /= 2) {
      passes.push(step("EXCHANGE", (rows * width) / 2, { run, distance }, ["in0", "tmp0"]));
    }
  }
  passes.push(step("STORE", rows * call.attrs.k, {}, ["in0", "tmp0", "out0", "out1"]));
  return { temps: [{ dtype: "u32", length: rows * width }], passes };
}

/** Moves elements between rows and their places in wider rows: the derivative of sorting, and that one's. */
function rowMover(
  name: string,
  doc: string,
  scatter: boolean,
  back: () => Op<{ width: number }>,
): Op<{ width: number }> {
  const index = { shape: [2, 3], dtype: "i32" as const, values: [4, 0, 2, 1, 3, 0] };
  return defineOp<{ width: number }>({
    name,
    doc,
    infer([x, indices], { width }) {
      if (!x || !indices || indices.dtype !== "i32" || x.shape.length !== indices.shape.length) {
        throw opError(name, x ? [x] : [], "expected rows and i32 indices");
      }
      return [{ shape: [...x.shape.slice(0, -1), scatter ? width : indices.shape.at(-1)!], dtype: x.dtype }];
    },
    reference([x, indices], { width }, [out]) {
      const k = indices!.shape.at(-1)!;
      for (let i = 0; i < indices!.data.length; i++) {
        const place = Math.floor(i / k) * width + indices!.data[i];
        if (scatter) out!.data[place] = x!.data[i];
        else out!.data[i] = x!.data[place];
      }
    },
    gradient: ({ inputs, attrs }, [dy]) => [apply(back(), [dy!, inputs[1]], attrs)[0], null],
    file: "reduce/move_rows.wgsl",
    plan({ inputs, outputs, attrs, profile }) {
      const count = numel(inputs[1].shape);
      const total = numel(outputs[0].shape);
      const move = (mode: string, size: number): Pass => ({
        defines: { [mode]: true },
        params: { size, k: inputs[1].shape.at(-1)!, width: attrs.width },
        grid: foldGrid(Math.ceil(size / 64), profile),
      });
      return {
        passes: scatter ? [move("CLEAR", total), move("SCATTER", count)] : [move("GATHER", count)],
      };
    },
    secondOrder: true,
    samples: () => [{ name: "rows", inputs: [{ shape: [2, scatter ? 3 : 5] }, index], attrs: { width: 5 } }],
  });
}

const scatterRows: Op<{ width: number }> = rowMover(
  "scatter_rows",
  "out[r, index[r, j]] = x[r, j], 0 elsewhere; the indices of a row differ.",
  true,
  () => gatherRows,
);

const gatherRows: Op<{ width: number }> = rowMover(
  "gather_rows",
  "out[r, j] = x[r, index[r, j]]; the indices of a row differ.",
  false,
  () => scatterRows,
);

/**
 * The k largest (or smallest) elements along `dim` in order, and their indices (i32). Equal elements keep their
 * order; NaN counts as larger than +infinity.
 */
export function topk(x: Tensor, k: number, dim = -1, largest = true): { values: Tensor; indices: Tensor } {
  const axis = normalizeDim("topk", dim, x);
  const extent = x.shape[axis] ?? 1;
  const least = x.rank === 0 ? 1 : 0;
  if (!(Number.isInteger(k) && k >= least && k <= extent))
    throw new KilnError(`topk: k = ${k} is not within ${least} to ${extent}, the extent of axis ${axis}`);
  if (x.rank === 0) {
    const { values, indices } = topk(reshape(x, [1]), k, 0, largest);
    return { values: reshape(values, []), indices: reshape(indices, []) };
  }
  const last = x.shape.length - 1;
  const [values, indices] = apply(sortOp, [transpose(x, axis, last)], { k, descending: largest }) as [
    Tensor,
    Tensor,
  ];
  return { values: transpose(values, axis, last), indices: transpose(indices, axis, last) };
}

/** The elements along `dim` in order, and their indices (i32). Stable; NaN counts as larger than +infinity. */
export function sort(x: Tensor, dim = -1, descending = false): { values: Tensor; indices: Tensor } {
  const axis = normalizeDim("sort", dim, x);
  return topk(x, x.shape[axis] ?? 1, dim, descending);
}
