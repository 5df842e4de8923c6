// Importing this file registers every op. One line a folder.
export * from "./assign/op.ts";
export * from "./fill/op.ts";
export * from "./open.ts";
export * from "./elementwise/index.ts";
export * from "./attention/op.ts";
export * from "./rope/op.ts";
export * from "./paged_attention/op.ts";
export * from "./shape/index.ts";
export * from "./views/index.ts";
export * from "./reduce/index.ts";
export * from "./matmul/index.ts";
