import { defineOp, type Op, opError, type Sample } from "../../core/op.ts";
import { normalizeDim, rankOf } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { dropAxes } from "../views/axes.ts";
import { reshape } from "../views/index.ts";
import { blocks, computeType } from "./lower.ts";

export interface ArgAttrs {
  readonly dim: number;
  readonly largest: boolean;
}

const argOp: Op<ArgAttrs> = defineOp<ArgAttrs>({
  name: "argextreme",
  doc: "Index (i32) of the largest or smallest element of an axis, which stays with extent 1; the first one at ties, and of the first NaN where there is one.",
  infer(inputs, { dim }) {
    const { shape } = inputs[0];
    if (!shape[dim]) throw opError("argextreme", inputs, `axis ${dim} has no elements`);
    return [{ shape: shape.map((extent, axis) => (axis === dim ? 1 : extent)), dtype: "i32" }];
  },
  reference([x], { dim, largest }, [out]) {
    const { outer, n, inner } = blocks(x!.shape, [dim]);
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) {
        const at = (k: number) => x!.data[(o * n + k) * inner + i];
        const beats = (a: number, b: number) => (largest ? a > b : a < b);
        let best = 0;
        for (let k = 1; k < n && !Number.isNaN(at(best)); k++)
          if (Number.isNaN(at(k)) || beats(at(k), at(best))) best = k;
        out!.data[o * inner + i] = best;
      }
    }
  },
  notDifferentiable: "an index is not continuous",
  variants: [
    {
      name: "subgroup",
      file: "reduce/arg.wgsl",
      when: ({ profile, inputs, attrs }) =>
        profile.subgroupSize > 0 && attrs.dim === inputs[0].shape.length - 1,
      plan: (call) => plan(call, call.profile.subgroupSize),
    },
    { name: "thread", file: "reduce/arg.wgsl", plan: (call) => plan(call, 1) },
  ],
  samples: (): Sample<ArgAttrs>[] => [
    { name: "rows", inputs: [{ shape: [5, 70] }], attrs: { dim: 1, largest: true } },
    {
      name: "ties",
      inputs: [{ shape: [9, 33], dtype: "i32", range: [0, 3] }],
      attrs: { dim: 1, largest: false },
    },
    {
      name: "columns",
      inputs: [{ shape: [3, 9, 5], dtype: "i32", range: [-3, 3] }],
      attrs: { dim: 1, largest: true },
    },
  ],
});

function plan(
  { inputs, attrs, profile }: Parameters<NonNullable<(typeof argOp)["variants"][0]["when"]>>[0],
  lanes: number,
) {
  const { outer, n, inner } = blocks(inputs[0].shape, [attrs.dim]);
  const compute = computeType(inputs[0].dtype);
  const workgroup = Math.min(Math.max(64, lanes), profile.maxWorkgroupSize);
  return {
    defines: {
      WG: workgroup,
      LANES: lanes,
      ALONE: lanes === 1,
      S: compute,
      FLOAT: compute === "f32",
      BEATS: attrs.largest ? "a > b" : "a < b",
    },
    params: { results: outer * inner, n, inner },
    grid: foldGrid(Math.ceil((outer * inner) / (workgroup / lanes)), profile),
  };
}

function arg(x: Tensor, dim: number | null | undefined, keepdim: boolean, largest: boolean): Tensor {
  const name = largest ? "argmax" : "argmin";
  rankOf(name, x);
  if (dim === null || dim === undefined) return arg(reshape(x, [x.size]), 0, false, largest);
  if (x.rank === 0) {
    normalizeDim(name, dim, x);
    return reshape(arg(reshape(x, [1]), 0, false, largest), []);
  }
  const axis = normalizeDim(name, dim, x);
  const kept = apply(argOp, [x], { dim: axis, largest })[0];
  return keepdim ? kept : dropAxes(kept, [axis]);
}

/** Index (i32) of the largest element of axis `dim`, or of the flattened tensor; the first one at ties, and of the first NaN if there is one. */
export const argmax = (x: Tensor, dim?: number | null, keepdim = false) => arg(x, dim, keepdim, true);

/** Index (i32) of the smallest element of axis `dim`, or of the flattened tensor; the first one at ties, and of the first NaN if there is one. */
export const argmin = (x: Tensor, dim?: number | null, keepdim = false) => arg(x, dim, keepdim, false);
