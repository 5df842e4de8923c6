import type { RefTensor } from "../../core/op.ts";
import { broadcastStrides, contiguousStrides, numel } from "../../core/shape.ts";
import { erf } from "../elementwise/functions.ts";
import type { Activation, MatmulAttrs } from "./geometry.ts";

export const activate: Record<Activation, (x: number) => number> = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: (x) => x / (1 + Math.exp(-x)),
};

/** The meaning of `matmul`: three loops over every batch. */
export function matmulReference(
  inputs: readonly RefTensor[],
  attrs: MatmulAttrs,
  [c]: readonly RefTensor[],
): void {
  const [a, b] = inputs as [RefTensor, RefTensor];
  const bias = attrs.bias ? inputs[2].data : null;
  const residual = attrs.residual ? inputs.at(-1)!.data : null;
  const { scale = 1, activation } = attrs;
  const K = a.shape.at(-1)!;
  const M = a.shape.at(-2) ?? 1;
  const N = b.shape.length > 1 ? b.shape.at(-1)! : 1;
  const starts = batchStarts(a, b, c!);
  starts.forEach(([aStart, bStart], batch) => {
    for (let m = 0; m < M; m++) {
      for (let n = 0; n < N; n++) {
        let sum = 0;
        for (let k = 0; k < K; k++) sum += a.data[aStart + m * K + k] * b.data[bStart + k * N + n];
        const x = scale * sum + (bias ? bias[n] : 0);
        const at = (batch * M + m) * N + n;
        c!.data[at] = (activation ? activate[activation](x) : x) + (residual ? residual[at] : 0);
      }
    }
  });
}

/** Where the matrices of each batch begin. */
function batchStarts(a: RefTensor, b: RefTensor, c: RefTensor): [number, number][] {
  const ofBatch = (t: RefTensor) => t.shape.slice(0, -2);
  const given = Number(a.shape.length > 1) + Number(b.shape.length > 1);
  const batch = c.shape.slice(0, c.shape.length - given);
  const strides = [a, b].map((t) =>
    broadcastStrides(ofBatch(t), contiguousStrides(t.shape).slice(0, -2), batch),
  );
  return Array.from({ length: numel(batch) }, (_, flat) => {
    const starts: [number, number] = [0, 0];
    let rest = flat;
    for (let axis = batch.length - 1; axis >= 0; axis--) {
      const at = rest % batch[axis];
      rest = Math.floor(rest / batch[axis]);
      starts[0] += at * strides[0][axis];
      starts[1] += at * strides[1][axis];
    }
    return starts;
  });
}
