import type { Tensor } from "../core/tensor.ts";
import { cast, clamp, div, matmul, mul, narrow, reshape, sqrt, square, sum } from "../kernels/index.ts";

/** How the hidden states of a text become one vector: that of its first token ([CLS]), or the mean of all its tokens. */
export type Pooling = "mean" | "cls";

/**
 * One vector a row, [B, hidden], of hidden states [B, T, hidden] whose tokens `mask` [B, T] (bool) marks. A row's vector does
 * not depend on the others'.
 */
export function pool(hidden: Tensor, mask: Tensor, pooling: Pooling): Tensor {
  const [batch, length, width] = hidden.shape as [number, number, number];
  if (pooling === "cls") return reshape(narrow(hidden, 1, 0, 1), [batch, width]);
  const counted = cast(mask, hidden.dtype); // [B, T]
  const total = matmul(reshape(counted, [batch, 1, length]), hidden, { batchInvariant: true }); // [B, 1, hidden]
  return div(reshape(total, [batch, width]), clamp(sum(counted, 1, true), 1));
}

/** Rows [B, hidden] divided by their Euclidean lengths, as torch.nn.functional.normalize. */
export function normalized(rows: Tensor): Tensor {
  return mul(rows, div(1, clamp(sqrt(sum(square(rows), 1, true)), 1e-12)));
}
