import { isFloat } from "../../core/dtype.ts";
import { type Call, defineOp, type Lowering, opError, type Sample, type TensorMeta } from "../../core/op.ts";
import { sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { type RowWorker, rowPass, rowVariants } from "../include/row.ts";

interface LoraAttrs {
  /** Rows of `a` that one adapter has at most. */
  rank: number;
}

const expected =
  "expected float y [N, out], x [N, in], a [C, in] and b [C, out], i32 slots [N] and spans [S, 2], f32 scales [S]";

function infer(inputs: readonly TensorMeta[], { rank }: LoraAttrs) {
  const [y, x, a, b, slots, spans, scales] = inputs;
  const fits =
    inputs.length === 7 &&
    [y, x, a, b].every((t) => t.shape.length === 2 && isFloat(t.dtype)) &&
    a.dtype === b.dtype &&
    y.shape[0] === x.shape[0] &&
    a.shape[1] === x.shape[1] &&
    sameShape(b.shape, [a.shape[0], y.shape[1]]) &&
    slots.dtype === "i32" &&
    sameShape(slots.shape, [y.shape[0]]) &&
    spans.dtype === "i32" &&
    scales.dtype === "f32" &&
    sameShape(spans.shape, [scales.shape[0], 2]);
  if (!fits) throw opError("lora_rows", inputs, expected);
  if (!(Number.isInteger(rank) && rank >= 0 && rank <= a.shape[0]))
    throw opError("lora_rows", inputs, `expected a rank of at most the rows of a, not ${rank}`);
  return [{ shape: y.shape, dtype: y.dtype }];
}

function plan(call: Call<LoraAttrs>, worker: RowWorker): Lowering {
  const { inputs, attrs, profile } = call;
  const [y, x, , , , spans] = inputs;
  const [rows, columns] = y.shape;
  const { rank } = attrs;
  const vec = columns % 4 === 0 ? 4 : 1;
  const params = { rank, adapters: spans.shape[0] };
  return {
    passes: [
      rowPass(call, worker, {
        rows: rows * rank,
        cols: x.shape[1],
        params,
        bind: ["in1", "in2", "in4", "in5", "tmp0"],
      }),
      {
        file: "lora/expand.wgsl",
        defines: { VEC: vec },
        params: { rows, cols: columns / vec, ...params },
        grid: foldGrid(Math.ceil((rows * columns) / vec / 64), profile),
        bind: ["in0", "in3", "in4", "in5", "in6", "tmp0", "out0"],
      },
    ],
    temps: [{ dtype: "f32", length: Math.max(rows * rank, 1) }],
  };
}

/** Rows up to this length are worth no second dispatch on a processor. */
const shortRow = 1024;

function onePass(call: Call<LoraAttrs>): Lowering {
  const [y, x, , , , spans] = call.inputs;
  const [rows, outputs] = y.shape;
  const cols = x.shape[1];
  const vec = cols % 4 === 0 && outputs % 4 === 0 ? 4 : 1;
  return {
    passes: [
      rowPass(call, "subgroup", {
        ...{ rows, cols },
        defines: { VEC: vec, RANK: Math.max(call.attrs.rank, 1) },
        params: { cols: cols / vec, outputs: outputs / vec, adapters: spans.shape[0] },
        bind: ["in0", "in1", "in2", "in3", "in4", "in5", "in6", "out0"],
      }),
    ],
  };
}

function sample(
  name: string,
  [rows, inputs, outputs]: readonly [number, number, number],
  spans: readonly (readonly [start: number, rank: number])[],
  slots: number[],
): Sample<LoraAttrs> {
  const total = Math.max(...spans.map(([start, rank]) => start + rank));
  return {
    name,
    inputs: [
      { shape: [rows, outputs] },
      { shape: [rows, inputs] },
      { shape: [total, inputs] },
      { shape: [total, outputs] },
      { shape: [rows], dtype: "i32", values: slots },
      { shape: [spans.length, 2], dtype: "i32", values: spans.flat() },
      { shape: [spans.length], dtype: "f32" },
    ],
    attrs: { rank: Math.max(...spans.map(([, rank]) => rank)) },
    atol: 1e-3,
    rtol: 1e-4,
    gradcheck: false,
  };
}

const loraRowsOp = defineOp<LoraAttrs>({
  name: "lora_rows",
  doc:
    "y + s B A x, row by row, each with the A and B of its own adapter (Chen et al. 2023, Punica; Sheng et al. 2023, S-LoRA): the " +
    "adapter of row n is slots[n], whose A and B are the rows start … start + rank - 1 of a [C, in] and b [C, out] with [start, rank] = " +
    "spans[slot], and whose s is scales[slot]. Rows whose slot is no row of spans keep their bits. The order of a sum depends on its " +
    "length alone, so that a row has the same bits beside any others and wherever its adapter lies.",
  infer,
  reference([y, x, a, b, slots, spans, scales], { rank: most }, [out]) {
    const [rows, outputs] = y.shape;
    const inputs = x.shape[1];
    out.data.set(y.data);
    for (let n = 0; n < rows; n++) {
      const slot = slots.data[n];
      if (!(slot >= 0 && slot < scales.shape[0])) continue;
      const [start, rank] = spans.data.subarray(2 * slot, 2 * slot + 2);
      if (rank === 0) continue;
      const change = new Float64Array(outputs);
      for (let r = start; r < start + Math.min(rank, most); r++) {
        let low = 0;
        for (let k = 0; k < inputs; k++) low += a.data[r * inputs + k] * x.data[n * inputs + k];
        for (let i = 0; i < outputs; i++) change[i] += b.data[r * outputs + i] * low;
      }
      for (let i = 0; i < outputs; i++) out.data[n * outputs + i] += scales.data[slot] * change[i];
    }
  },
  notDifferentiable: "it serves; training uses the layers' own adapters",
  variants: [
    {
      name: "one pass",
      file: "lora/row.wgsl",
      when: ({ inputs: [y, x], attrs, profile }) =>
        profile.class === "cpu" &&
        profile.subgroupSize > 0 &&
        attrs.rank > 0 &&
        Math.max(y.shape[1], x.shape[1]) <= shortRow,
      plan: onePass,
    },
    ...rowVariants<LoraAttrs>("lora/shrink.wgsl", ({ inputs }) => inputs[1].shape[1], plan),
  ],
  samples: () => [
    sample(
      "ranks",
      [7, 13, 9],
      [
        [0, 3],
        [5, 1],
        [3, 2],
        [6, 0],
      ],
      [0, -1, 2, 1, 3, 0, 2],
    ),
    sample(
      "vec4",
      [6, 64, 48],
      [
        [4, 16],
        [0, 4],
      ],
      [1, 0, -1, 0, 1, 1],
    ),
    sample("no such adapter", [3, 8, 8], [[0, 2]], [1, -7, 0]),
    sample("no rows", [0, 8, 4], [[0, 2]], []),
  ],
});

/** See `lora_rows`. `rank`: the largest of the adapters' ranks. */
export function loraRows(
  y: Tensor,
  x: Tensor,
  adapters: { a: Tensor; b: Tensor; spans: Tensor; scales: Tensor; rank: number },
  slots: Tensor,
): Tensor {
  const { a, b, spans, scales, rank } = adapters;
  return apply(loraRowsOp, [y, x, a, b, slots, spans, scales], { rank })[0];
}
