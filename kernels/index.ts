// Importing this file registers every op. One line a folder.
export * from "./fill/op.ts";
export * from "./open.ts";
