export * from "./attention.ts";
export * from "./dropout.ts";
export * from "./init.ts";
export * from "./layers.ts";
export * from "./losses.ts";
export * from "./module.ts";
export * from "./sequential.ts";
