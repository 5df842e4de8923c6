export type { Activation, MatmulAttrs } from "./geometry.ts";
export { type LinearOptions, linear, type MatmulOptions, matmul } from "./op.ts";
