import { custom } from "../core/autograd.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import { cat, split } from "../kernels/index.ts";

/**
 * `count` equal parts of axis `dim`, as views with one gradient: separate slices would each scatter theirs into zeros of the
 * full size, which would then be summed.
 */
export function equalParts(x: Tensor, count: number, dim: number): Tensor[] {
  const size = x.shape.at(dim)! / count;
  const gradient = (parts: readonly (Tensor | null)[]) =>
    cat(
      parts.map((g) => g ?? zeros(x.shape.with(dim, size), x.dtype, x.device)),
      dim,
    );
  return custom(
    "split",
    [x],
    () => ({ outputs: split(x, size, dim) }),
    (parts) => [gradient(parts)],
  );
}
