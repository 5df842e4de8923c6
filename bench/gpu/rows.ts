import {
  adamRow,
  attentionRows,
  crossEntropyRow,
  type GpuRow,
  type Kind,
  matrixRows,
  otherProducts,
  productRow,
  transformerRows,
} from "./kernels.ts";
import { firstStepRow, modelRows } from "./models.ts";
import { fullSizes, quickSizes } from "./sizes.ts";

/** The rows of the GPU table, those that decide a bar first: a run that is cut short has measured what matters. */
export function gpuRows(quick = false): GpuRow[] {
  const sizes = quick ? quickSizes : fullSizes;
  const n = sizes.squares.at(-1)!;
  const largest = (precision: Kind) => productRow({ role: "gemm largest", extents: [n, n, n], precision });
  const [small, large] = sizes.matrices as [[number, number], [number, number]];
  const models = modelRows(sizes);
  return [
    largest("f32"),
    largest("f16"),
    ...transformerRows(sizes),
    ...matrixRows(large, "large"),
    ...models.training,
    ...attentionRows(sizes.attention, "f32"),
    ...attentionRows(sizes.attention, "f16"),
    ...models.decoding,
    crossEntropyRow(sizes),
    adamRow(sizes.adam),
    ...otherProducts(sizes),
    ...matrixRows(small, "small"),
    ...models.more,
  ];
}

/** Only in a process of its own is a first step a first one. */
export function firstStep(quick = false): GpuRow {
  return firstStepRow(quick ? quickSizes : fullSizes);
}
