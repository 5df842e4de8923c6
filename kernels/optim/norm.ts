import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { type Call, defineOp, type Lowering, opError, type Pass, type Variant } from "../../core/op.ts";
import { numel, rankOf } from "../../core/shape.ts";
import { apply, ones, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { type RowWorker, rowPass } from "../include/row.ts";
import { vecType } from "../include/vec.ts";
import { batchesOf } from "./shared.ts";

interface NormAttrs {
  /** Largest norm that passes unscaled; 0 clips nothing. */
  maxNorm: number;
}

/** Partial sums that a tensor is cut into: enough to fill a device, fixed by the size alone. */
function cellsOf(size: number): number {
  return Math.min(256, Math.ceil(size / 4096));
}

/** Where the cells of each input begin, and how many there are. */
function layCells({ inputs }: Call<NormAttrs>): { firsts: number[]; cells: number } {
  let cells = 0;
  const firsts = inputs.map(({ shape }, i) => {
    const first = cells;
    if (i > 0) cells += cellsOf(numel(shape));
    return first;
  });
  return { firsts, cells };
}

/** A dispatch for each gradient. */
function plan(call: Call<NormAttrs>, worker: RowWorker): Lowering {
  const { firsts, cells } = layCells(call);
  const passes = call.inputs.slice(1).map((grad, k) => {
    const size = numel(grad.shape);
    return rowPass(call, worker, {
      rows: cellsOf(size),
      cols: size,
      file: "optim/squares.wgsl",
      params: { first: firsts[k + 1] },
      defines: { GRAD: vecType(grad.dtype, size % 4 === 0 ? 4 : 1) },
      bind: [`in${k + 1}`, "tmp0"],
    });
  });
  return withNorm(call, worker, cells, passes);
}

/** As many gradients to a dispatch as the adapter has bindings for. */
function planTogether(call: Call<NormAttrs>): Lowering {
  const { inputs, profile } = call;
  const { firsts, cells } = layCells(call);
  const filled = inputs.map((_, i) => i).filter((i) => i > 0 && numel(inputs[i].shape) > 0);
  const passes = batchesOf(inputs, filled, profile.maxStorageBuffers - 1).map((batch): Pass => {
    const grads = batch.inputs;
    let end = 0;
    const ends = grads.map((i) => (end += cellsOf(numel(inputs[i].shape))));
    return {
      file: "optim/multi_squares.wgsl",
      defines: {
        BY: 2,
        WG: 256,
        LANES: 256,
        VEC: batch.vec,
        GRAD: vecType(inputs[grads[0]].dtype, batch.vec),
        COUNT: grads.length,
      },
      params: { cols: batch.sizes, ends, firsts: grads.map((i) => firsts[i]) },
      grid: foldGrid(end, profile),
      bind: [...grads.map((i) => `in${i}` as const), "tmp0"],
    };
  });
  return withNorm(call, "workgroup", cells, passes);
}

/** The passes that fill the cells, then the one that makes the results of them. */
function withNorm(
  call: Call<NormAttrs>,
  worker: RowWorker,
  cells: number,
  passes: readonly Pass[],
): Lowering {
  const last = rowPass(call, worker, {
    rows: 1,
    cols: cells,
    file: "optim/norm.wgsl",
    params: { most: call.attrs.maxNorm, cols: cells },
    defines: { CLIP: call.attrs.maxNorm > 0, VEC: 1 },
    bind: ["in0", "tmp0", "out0", "out1"],
  });
  return { temps: [{ dtype: "f32", length: cells }], passes: [...passes, last] };
}

function variants(): Variant<NormAttrs>[] {
  const of = (worker: RowWorker, when?: (call: Call<NormAttrs>) => boolean): Variant<NormAttrs> => ({
    name: worker,
    file: "optim/squares.wgsl",
    ...(when && { when }),
    plan: (call) => plan(call, worker),
  });
  return [
    of("subgroup", ({ profile }) => profile.subgroupSize > 0 && profile.class === "cpu"),
    of("thread", ({ profile }) => profile.class === "cpu"),
    { name: "together", file: "optim/multi_squares.wgsl", plan: planTogether },
    of("workgroup"),
  ];
}

const globalNormOp = defineOp<NormAttrs>({
  name: "global_norm",
  doc: "(norm [1], scale [1]) from factor [1] and any number of gradients: norm = |factor| * sqrt(sum of all squares), scale = factor * min(1, maxNorm / (norm + 1e-6)), as torch's clip_grad_norm_. A norm that is not finite gives scale 0: optimizers then skip the step. The order of summation depends on the sizes alone.",
  notDifferentiable: "it measures gradients",
  f16: false,
  infer(inputs) {
    const [factor, ...grads] = inputs;
    if (
      !factor ||
      numel(factor.shape) !== 1 ||
      factor.dtype !== "f32" ||
      !grads.every((g) => isFloat(g.dtype))
    ) {
      throw opError("global_norm", inputs, "expected a one-element f32 factor and float gradients");
    }
    return [
      { shape: [1], dtype: "f32" },
      { shape: [1], dtype: "f32" },
    ];
  },
  reference([factor, ...grads], { maxNorm }, [norm, scale]) {
    let squares = 0;
    for (const { data } of grads) for (const g of data) squares += g * g;
    const length = Math.sqrt(squares) * Math.abs(factor.data[0]);
    norm.data[0] = length;
    const clip = maxNorm > 0 ? Math.min(1, maxNorm / (length + 1e-6)) : 1;
    scale.data[0] = length < 3e38 ? factor.data[0] * clip : 0;
  },
  variants: variants(),
  samples: () => {
    const factor = (value: number) => ({ shape: [1], values: [value] });
    const big = { shape: [4], values: [1, Number.NaN, 2, 3] };
    return [
      {
        name: "clipped",
        inputs: [factor(0.5), { shape: [3, 7] }, { shape: [70, 300] }, { shape: [5] }],
        attrs: { maxNorm: 1 },
      },
      { name: "small", inputs: [factor(1), { shape: [3] }], attrs: { maxNorm: 100 } },
      { name: "unclipped", inputs: [factor(2), { shape: [8] }], attrs: { maxNorm: 0 } },
      { name: "not finite", inputs: [factor(1), big], attrs: { maxNorm: 1 } },
    ];
  },
});

/**
 * Norm of all gradients together after multiplication by `factor` (one element, e.g. 1 / supervised tokens), and the
 * scale that optimizers are to apply: factor, reduced where the norm exceeds `maxNorm`. Both stay on the device.
 */
export function globalNorm(
  grads: readonly Tensor[],
  options: { maxNorm?: number; factor?: Tensor } = {},
): { norm: Tensor; scale: Tensor } {
  if (grads.length === 0) throw new KilnError("global_norm: there are no gradients");
  for (const t of grads) rankOf("global_norm", t);
  if (options.maxNorm !== undefined && !(options.maxNorm >= 0))
    throw new KilnError(
      `global_norm: maxNorm is ${options.maxNorm}; expected a number from 0 (no clipping) on`,
    );
  const factor = options.factor ?? ones([1], "f32", grads[0].device);
  const [norm, scale] = apply(globalNormOp, [factor, ...grads], { maxNorm: options.maxNorm ?? 0 });
  return { norm, scale };
}
