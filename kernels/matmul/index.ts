export type { Activation, MatmulAttrs } from "./geometry.ts";
export { activate, type LinearOptions, linear, type MatmulOptions, matmul } from "./op.ts";
