import { grads } from "../../core/autograd.ts";
import { gradEnabled, withRecording } from "../../core/tape.ts";
import { recordView, type Tensor } from "../../core/tensor.ts";

/**
 * The gradient rule of a fused op: differentiates `plain`, the same computation written in plain ops. Slow and
 * rarely needed: fused backward kernels use it for their own derivatives, which second order asks for.
 */
export function plainGradient(
  { inputs, needs }: { inputs: readonly Tensor[]; needs: readonly boolean[] },
  cotangents: readonly (Tensor | null)[],
  plain: (...inputs: Tensor[]) => Tensor[],
): (Tensor | null)[] {
  const higher = gradEnabled();
  // Leaves of their own keep this graph apart from what the inputs were made of; identities tie it to them again
  // where the result will itself be differentiated.
  const leaves = inputs.map((t, i) => {
    if (!needs[i]) return t.detach();
    return higher ? recordView(t.detach(), t, "identity", (dy) => dy) : t.detach().requireGrad();
  });
  const outputs = withRecording(true, () => plain(...leaves));
  const wanted = leaves.filter((_, i) => needs[i]);
  const found = grads(outputs, wanted, { cotangents, createGraph: higher });
  return leaves.map((_, i) => (needs[i] ? found.shift()! : null));
}
