// Importing this file registers every op. One line a folder.
export * from "./assign/op.ts";
export * from "./attention/op.ts";
export * from "./conv/op.ts";
export { overlapAdd, windows } from "./conv/windows.ts";
export * from "./creation/index.ts";
export * from "./cross_entropy/linear.ts";
export * from "./cross_entropy/op.ts";
export * from "./einsum/index.ts";
export * from "./elementwise/glu.ts";
export * from "./elementwise/index.ts";
export * from "./embedding/op.ts";

import "./fill/op.ts";

export * from "./fused_linear/op.ts";
export * from "./gather/op.ts";
export * from "./interpolate/index.ts";
export * from "./lora/op.ts";
export * from "./matmul/index.ts";

import "./methods.ts";

export * from "./norm/op.ts";
export * from "./open.ts";
export * from "./optim/op.ts";
export * from "./pad/index.ts";
export * from "./paged_attention/op.ts";
export * from "./pool/index.ts";
export { type Nf4, quantizeNf4, toWords } from "./quantized_matmul/nf4.ts";
export * from "./quantized_matmul/op.ts";
export * from "./random/op.ts";
export * from "./rearrange/index.ts";
export * from "./reduce/index.ts";
export * from "./rope/op.ts";
export * from "./sampling/draw.ts";
export * from "./sampling/feed.ts";
export * from "./sampling/greedy.ts";
export * from "./sampling/sample.ts";
export * from "./search/index.ts";
export * from "./softmax/op.ts";
export * from "./views/index.ts";
