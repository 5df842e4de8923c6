import { recordView, type Tensor } from "../../core/tensor.ts";

/** Drops axes of extent 1. */
export function dropAxes(x: Tensor, dims: readonly number[]): Tensor {
  if (dims.length === 0) return x;
  const keep = x.shape.map((_, i) => i).filter((i) => !dims.includes(i));
  const out = x.asStrided(
    keep.map((i) => x.shape[i]),
    keep.map((i) => x.strides[i]),
    x.offset,
  );
  return recordView(out, x, "squeeze", (dy) => insertAxes(dy, dims));
}

/** Adds axes of extent 1, which are `dims` (ascending) of the result. */
export function insertAxes(x: Tensor, dims: readonly number[]): Tensor {
  if (dims.length === 0) return x;
  const shape = [...x.shape];
  const strides = [...x.strides];
  for (const dim of dims) {
    shape.splice(dim, 0, 1);
    strides.splice(dim, 0, 1);
  }
  return recordView(x.asStrided(shape, strides, x.offset), x, "unsqueeze", (dy) => dropAxes(dy, dims));
}
