import type { Tensor } from "../../core/tensor.ts";
import { globalNorm, mul } from "../../kernels/index.ts";

/** torch.nn.utils.clip_grad_norm_ without the in-place part: the norm before clipping, and the clipped gradients. */
export function clipGradNorm(
  gradients: readonly Tensor[],
  maxNorm: number,
): { norm: Tensor; clipped: Tensor[] } {
  const { norm, scale } = globalNorm(gradients, { maxNorm });
  return { norm, clipped: gradients.map((g) => mul(g, scale)) };
}
