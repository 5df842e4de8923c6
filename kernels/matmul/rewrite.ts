import type { Storage } from "../../core/device.ts";
import { type AnyOp, findOp, mutatedInputs } from "../../core/op.ts";
import { sameShape } from "../../core/shape.ts";
import { Tensor } from "../../core/tensor.ts";
import type { TracedCall } from "../../core/webgpu/call.ts";
import type { MatmulAttrs } from "./geometry.ts";
import { matmulOp } from "./op.ts";

/** A product to which nothing is added yet, and when it is computed. */
interface Product {
  at: number;
  call: TracedCall;
}

/**
 * Fuses sums with a product into it: where nobody else reads the product, it is computed in place of the sum, and the other
 * term is added as it is stored. This saves a pass through memory for each cotangent that several layers add up.
 *
 * @param live storages that must exist after the step
 */
export function addWhereStored(calls: TracedCall[], live: ReadonlySet<Storage>): TracedCall[] {
  const readers = new Map<Storage, number>();
  const updates = new Map<Storage, number[]>();
  calls.forEach(({ op, inputs }, at) => {
    for (const { storage } of inputs) readers.set(storage, (readers.get(storage) ?? 0) + 1);
    for (const i of mutatedInputs(op, inputs.length)) {
      const { storage } = inputs[i];
      updates.set(storage, [...(updates.get(storage) ?? []), at]);
    }
  });
  const products = new Map<Storage, Product>();
  const out: (TracedCall | null)[] = [...calls];
  const movable = ({ at, call }: Product, to: number) =>
    call.inputs.every((t) => (updates.get(t.storage) ?? []).every((when) => when < at || when > to));

  calls.forEach((call, at) => {
    if (call.op === (matmulOp as unknown as AnyOp)) {
      if (!(call.attrs as MatmulAttrs).residual) products.set(call.outputs[0].storage, { at, call });
      return;
    }
    const isSum = call.op === findOp("add") && call.inputs.length === 2;
    if (!isSum || !sameShape(call.inputs[0].shape, call.inputs[1].shape)) return;
    const [last] = [0, 1]
      .flatMap((side) => {
        const [term, other] = [call.inputs[side], call.inputs[1 - side]];
        const product = products.get(term.storage);
        const alone =
          readers.get(term.storage) === 1 && !live.has(term.storage) && !updates.has(term.storage);
        const fits = product && alone && isWhole(term, product.call.outputs[0]) && other.contiguous;
        return fits && other.dtype === term.dtype && movable(product, at) ? [{ product, other }] : [];
      })
      .sort((a, b) => b.product.at - a.product.at);
    if (!last) return;
    out[last.product.at] = null;
    out[at] = withResidual(last.product.call, last.other, call.outputs[0]);
  });
  return out.filter((call) => call !== null);
}

/** Whether `t` is a view of all of `made`, in order. */
function isWhole(t: Tensor, made: Tensor): boolean {
  return t.contiguous && t.offset === 0 && t.size === made.size;
}

function withResidual({ op, inputs, attrs, outputs }: TracedCall, term: Tensor, sum: Tensor): TracedCall {
  const { shape, strides } = outputs[0];
  return {
    op,
    inputs: [...inputs, term.asStrided(shape, strides, term.offset)],
    attrs: { ...(attrs as MatmulAttrs), residual: true },
    outputs: [new Tensor(sum.storage, shape)],
  };
}
