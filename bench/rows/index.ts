import { adaptersRow } from "./adapters.ts";
import {
  adamRow,
  attentionRows,
  crossEntropyRow,
  memoryRow,
  otherProducts,
  productRow,
  transformerRows,
} from "./kernels.ts";
import { decodeRow, firstStepRow, gptTrainRow, modelRows, tinyllmTrainRow } from "./models.ts";
import { type GpuRow, precisions, type Row } from "./row.ts";
import { prefixRow, schedulerRow } from "./serving.ts";
import { fullSizes, quickSizes } from "./sizes.ts";
import { firstTokenRow, streamsRow } from "./streams.ts";
import { tuningRows } from "./tuning.ts";

/** A layer of TinyLLM on a training batch of 8 rows of 128 tokens. */
function linearRow(what: string, inFeatures: number, outFeatures: number): Row {
  const row = productRow(what, [1024, inFeatures, outFeatures], "f32", "b");
  return { ...row, name: `linear ${what} 1024x${inFeatures}x${outFeatures}` };
}

/** What `kiln bench` times on a software adapter, in the order of the table. */
export function smallRows(): Row[] {
  const square = (n: number): Row => ({ ...productRow("", [n, n, n]), name: `matmul ${n}` });
  const memory = (op: string, name: string, extents: [number, number] = [2048, 1024]): Row => ({
    ...memoryRow(op, extents),
    name,
  });
  const attention = (...shape: [number, number, number, number]): Row[] => {
    const [forward, both] = attentionRows(shape);
    const size = shape.join("x");
    return [
      { ...forward, name: `attention ${size}` },
      { ...both, name: `attention+backward ${size}` },
    ];
  };
  return [
    ...[256, 512, 1024].map(square),
    linearRow("qkvo", 128, 128),
    linearRow("gate", 128, 352),
    linearRow("down", 352, 128),
    linearRow("head", 128, 2048),
    memory("softmax", "softmax 2048x1024"),
    memory("layernorm", "layer_norm 2048x1024"),
    memory("rms_norm", "rms_norm 2048x1024"),
    memory("add_two", "add 4Mi", [2048, 2048]),
    ...attention(8, 4, 128, 32),
    ...attention(1, 4, 1024, 32),
    tinyllmTrainRow(),
    gptTrainRow(),
    ...tuningRows(),
    decodeRow(1),
    decodeRow(16),
    streamsRow(1),
    streamsRow(16),
    firstTokenRow(256),
    adaptersRow(1),
    adaptersRow(16),
    schedulerRow(64),
    schedulerRow(256),
    prefixRow(),
  ];
}

/** The rows of the GPU table, those that decide a bar first: a run that is cut short has measured what matters. */
export function gpuRows(quick = false): GpuRow[] {
  const sizes = quick ? quickSizes : fullSizes;
  const n = sizes.squares.at(-1)!;
  const [small, large] = sizes.matrices;
  const matrices = (extents: [number, number], size: string) =>
    ["softmax", "layernorm", "gelu", "add", "add_two"].map((name) => memoryRow(name, extents, size));
  const models = modelRows(sizes);
  return [
    ...precisions.map((precision) => productRow("gemm largest", [n, n, n], precision)),
    ...transformerRows(sizes),
    ...matrices(large, "large"),
    ...models.training,
    ...precisions.flatMap((precision) => attentionRows(sizes.attention, precision)),
    ...models.decoding,
    crossEntropyRow(sizes),
    adamRow(sizes.adam),
    ...otherProducts(sizes),
    ...matrices(small, "small"),
    ...models.more,
  ];
}

/** Only in a process of its own is a first step a first one. */
export function firstStep(quick = false): GpuRow {
  return firstStepRow(quick ? quickSizes : fullSizes);
}
