import { type DType, isFloat } from "../../core/dtype.ts";
import { type Call, defineOp, type Lowering, type Op, opError, type Sample } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import type { MatmulAttrs } from "../matmul/geometry.ts";
import { planPlain, planSubgroup, planTiled } from "../matmul/plan.ts";
import { dequantizeNf4, quantizeNf4, toWords, wordsOf } from "./nf4.ts";

/** The matrix W [rows, columns] that the words hold. */
type Matrix = { rows: number; columns: number };

interface QuantizedAttrs extends Matrix, Pick<MatmulAttrs, "batchInvariant" | "outDtype"> {
  /** x W instead of x W^T. */
  transposed?: boolean;
}

const sizeOf = ({ rows, columns }: Matrix) => rows * columns;

/** The product as matmul's planners see it: the second operand is W or a view of it, of numbers once they are read. */
function asMatmul(call: Call<QuantizedAttrs>): Call<MatmulAttrs> {
  const { rows, columns, transposed, batchInvariant = false } = call.attrs;
  const [shape, strides] = transposed
    ? [
        [rows, columns],
        [columns, 1],
      ]
    : [
        [columns, rows],
        [1, columns],
      ];
  const weight = { shape: shape!, strides: strides!, offset: 0, dtype: "f32" as const };
  return {
    ...call,
    inputs: [call.inputs[0], { ...call.inputs[1], ...weight }],
    attrs: { nf4: true, batchInvariant },
  };
}

const planned = (planner: (call: Call<MatmulAttrs>) => Lowering) => (call: Call<QuantizedAttrs>) =>
  planner(asMatmul(call));

export const quantizedMatmulOp: Op<QuantizedAttrs> = defineOp<QuantizedAttrs>({
  name: "quantized_matmul",
  doc:
    "y = x W^T, or x W where transposed, for x [..., K] and W [rows, columns] in NF4 with double quantization (Dettmers et al. " +
    "2023, QLoRA; see nf4.ts), whose weights become f32 as the kernel of matmul reads them.",
  infer(inputs, attrs) {
    const [x, words] = inputs;
    const [K, N] = attrs.transposed ? [attrs.rows, attrs.columns] : [attrs.columns, attrs.rows];
    if (!x || !isFloat(x.dtype) || x.shape.length === 0 || x.shape.at(-1) !== K)
      throw opError("quantized_matmul", inputs, `expected float x [..., ${K}]`);
    if (words?.dtype !== "u32" || words.shape.length !== 1 || words.shape[0] !== wordsOf(sizeOf(attrs)))
      throw opError(
        "quantized_matmul",
        inputs,
        `expected the ${wordsOf(sizeOf(attrs))} words of a matrix, u32`,
      );
    return [{ shape: x.shape.with(-1, N), dtype: attrs.outDtype ?? x.dtype }];
  },
  reference([x, words], attrs, [y]) {
    const { rows, columns, transposed = false } = attrs;
    const weights = dequantizeNf4(words.data, sizeOf(attrs));
    const [K, N] = transposed ? [rows, columns] : [columns, rows];
    for (let i = 0; i < y.data.length; i++)
      for (let k = 0; k < K; k++) {
        const weight = transposed ? k * columns + (i % N) : (i % N) * columns + k;
        y.data[i] += x.data[Math.floor(i / N) * K + k] * weights[weight];
      }
  },
  gradient({ inputs: [, words], attrs: { transposed = false, rows, columns } }, [dy]) {
    const attrs = { rows, columns, ...(!transposed && { transposed: true }) };
    return [dy && apply(quantizedMatmulOp, [dy, words], attrs)[0], null];
  },
  secondOrder: true,
  variants: [
    {
      name: "subgroup",
      file: "matmul/subgroup.wgsl",
      strided: true,
      when: ({ profile: { class: kind, subgroupSize } }) =>
        kind === "cpu" && subgroupSize >= 4 && subgroupSize <= 16,
      plan: planned(planSubgroup),
    },
    {
      name: "tiled",
      file: "matmul/tiled.wgsl",
      strided: true,
      when: ({ profile }) => profile.maxWorkgroupSize >= 256,
      plan: planned(planTiled),
    },
    { name: "plain", file: "matmul/plain.wgsl", strided: true, plan: planned(planPlain) },
  ],
  samples() {
    const of = (
      name: string,
      x: number[],
      matrix: Matrix,
      attrs: Partial<QuantizedAttrs> = {},
    ): Sample<QuantizedAttrs> => ({
      name,
      inputs: [{ shape: x }, wordsSample(matrix)],
      attrs: { ...matrix, ...attrs },
      atol: 5e-5,
    });
    return [
      of("odd", [5, 7], { rows: 11, columns: 7 }),
      of("vectors", [2, 3, 72], { rows: 40, columns: 72 }),
      of("one row", [1, 64], { rows: 36, columns: 64 }, { batchInvariant: true }),
      { ...of("many rows", [130, 68], { rows: 44, columns: 68 }), gradcheck: false },
      of("transposed", [5, 36], { rows: 36, columns: 24 }, { transposed: true }),
      of("transposed odd", [4, 9], { rows: 9, columns: 15 }, { transposed: true }),
      { ...of("two magnitudes' blocks", [3, 136], { rows: 132, columns: 136 }), gradcheck: false },
      of("no rows", [0, 8], { rows: 4, columns: 8 }),
    ];
  },
});

function wordsSample(matrix: Matrix) {
  const size = sizeOf(matrix);
  const values = Float32Array.from({ length: size }, (_, i) => Math.sin(i * 12.9898) ** 3);
  const words = Array.from(toWords(quantizeNf4(values), size));
  return { shape: [words.length], dtype: "u32" as DType, values: words };
}

const dequantizeOp = defineOp<Matrix>({
  name: "dequantize_nf4",
  doc: "The matrix [rows, columns], f32, whose words `quantized_matmul` takes; see nf4.ts.",
  infer(inputs, attrs) {
    const [words] = inputs;
    if (words?.dtype !== "u32" || words.shape.length !== 1 || words.shape[0] !== wordsOf(sizeOf(attrs)))
      throw opError(
        "dequantize_nf4",
        inputs,
        `expected the ${wordsOf(sizeOf(attrs))} words of a matrix, u32`,
      );
    return [{ shape: [attrs.rows, attrs.columns], dtype: "f32" }];
  },
  reference([words], attrs, [weights]) {
    weights.data.set(dequantizeNf4(words.data, sizeOf(attrs)));
  },
  notDifferentiable: "its input is packed",
  file: "quantized_matmul/dequantize.wgsl",
  plan: ({ outputs: [{ shape }], profile }) => ({
    params: { size: numel(shape) },
    grid: foldGrid(Math.ceil(numel(shape) / 64), profile),
  }),
  samples: () => [
    { name: "odd", inputs: [wordsSample({ rows: 33, columns: 7 })], attrs: { rows: 33, columns: 7 } },
  ],
});

/** A matrix in NF4 on a device. */
export interface QuantizedMatrix extends Matrix {
  /** See `toWords`. */
  words: Tensor;
}

/** x W^T for x [..., columns]; the result has x's dtype, or `outDtype`. */
export function quantizedMatmul(
  x: Tensor,
  { words, rows, columns }: QuantizedMatrix,
  { batchInvariant, outDtype }: Pick<MatmulAttrs, "batchInvariant" | "outDtype"> = {},
): Tensor {
  const attrs = {
    rows,
    columns,
    ...(batchInvariant && { batchInvariant }),
    ...(outDtype && outDtype !== x.dtype && { outDtype }),
  };
  return apply(quantizedMatmulOp, [x, words], attrs)[0];
}

/** W [rows, columns], f32. */
export const dequantize = ({ words, rows, columns }: QuantizedMatrix): Tensor =>
  apply(dequantizeOp, [words], { rows, columns })[0];
