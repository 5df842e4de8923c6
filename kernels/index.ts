// Importing this file registers every op. One line a folder.
export * from "./assign/op.ts";
export * from "./fill/op.ts";
export * from "./open.ts";
export * from "./elementwise/index.ts";
