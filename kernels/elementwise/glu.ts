import { opError } from "../../core/op.ts";
import { normalizeDim } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { split } from "../views/index.ts";
import { mul, sigmoid } from "./table.ts";

/** The first half of axis `dim` times the sigmoid of the second (Dauphin et al. 2017). */
export function glu(x: Tensor, dim = -1): Tensor {
  const axis = normalizeDim("glu", dim, x);
  const extent = x.shape[axis] ?? 1;
  if (extent % 2 !== 0)
    throw opError("glu", [x], `axis ${axis} has ${extent} elements, which are no two halves`);
  const [values, gates] = split(x, extent / 2, axis);
  return mul(values, sigmoid(gates));
}
