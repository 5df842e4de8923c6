import { type DType, wgslType } from "../../core/dtype.ts";

/** The WGSL type of one element, or of four handled at a time. */
export const vecType = (dtype: DType, vec: number): string =>
  vec === 4 ? `vec4<${wgslType(dtype)}>` : wgslType(dtype);
