import { checkpoint, custom } from "../../core/autograd.ts";
import { byteSize } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import type { DeviceProfile } from "../../core/op.ts";
import { rankOf, show } from "../../core/shape.ts";
import { gradEnabled } from "../../core/tape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { cast, mul } from "../elementwise/index.ts";
import { plainGradient } from "../include/plain_gradient.ts";
import { linear, matmul } from "../matmul/index.ts";
import { cat } from "../pad/index.ts";
import { sum } from "../reduce/index.ts";
import { narrow, transpose } from "../views/index.ts";
import { countSupervised, crossEntropyOp, crossEntropyUnitOp } from "./op.ts";

export interface LinearCrossEntropyOptions {
  /** Target of tokens that are not supervised. */
  ignoreIndex?: number;
  labelSmoothing?: number;
  /** Most bytes that a temporary of logits may take; by default 16 MiB, and 256 MiB on a GPU. */
  chunkBytes?: number;
  /**
   * The loss's derivative that will come from upstream, f32 [1], where it is known before: derivatives are then made with
   * it, and are not multiplied again. Derivatives of an f16 head need it: without a loss scale they would vanish.
   */
  upstream?: Tensor | undefined;
}

interface Parts {
  loss: Tensor;
  dhidden: Tensor | null;
  dweight: Tensor | null;
}

/**
 * Cross-entropy of a language model's head without a [tokens, vocabulary] tensor: hidden [N, D], weight [V, D],
 * target [N] (i32). Returns the loss summed over supervised tokens and their number, both f32 scalars, so that
 * gradients of several batches add up exactly before one division. Of f16 operands too logits, softmax and dweight are
 * f32; dlogits and dhidden are f16.
 *
 * Tokens go by in chunks of at most `chunkBytes` of logits. As the loss is a sum, the derivatives of a chunk can be
 * taken while its logits are at hand, up to the one factor that comes from upstream (Hsu et al. 2024, Liger): the
 * head's matrix product is computed once, not twice. Chunks add to dweight in order: the same bits every time.
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  target: Tensor,
  options: LinearCrossEntropyOptions = {},
): { loss: Tensor; count: Tensor } {
  for (const t of [hidden, weight, target]) rankOf("linear_cross_entropy", t);
  const { ignoreIndex = -100, labelSmoothing = 0, upstream } = options;
  const { chunkBytes = defaultChunk(hidden.device.profile) } = options;
  const [tokens, width] = hidden.shape;
  if (hidden.rank !== 2 || weight.rank !== 2 || weight.shape[1] !== width || target.size !== tokens) {
    throw new KilnError(
      `linear_cross_entropy: hidden ${show(hidden.shape)}, weight ${show(weight.shape)} and target ${show(target.shape)} do not fit; expected [N, D], [V, D] and [N]`,
    );
  }
  const wants = {
    hidden: gradEnabled() && hidden.requiresGrad,
    weight: gradEnabled() && weight.requiresGrad,
  };
  const chunk = chunkRows(tokens, weight.shape[0] * byteSize("f32"), chunkBytes);
  const rules = { ignoreIndex, labelSmoothing };
  const [loss] = custom(
    "linear_cross_entropy",
    [hidden, weight],
    () => {
      const { loss, ...found } = overChunks(hidden, weight, target, chunk, wants, { ...rules, upstream });
      return { outputs: [loss], saved: [found.dhidden, found.dweight] };
    },
    ([g], saved) => {
      if (!gradEnabled()) return saved.map((d) => g && d && (upstream ? d : cast(mul(d, g), d.dtype)));
      // A derivative that will itself be differentiated is that of the loss in plain ops, over all logits at once.
      const plain = (h: Tensor, w: Tensor) => {
        const logits = matmul(h, transpose(w, 0, 1), precise(h));
        return [sum(apply(crossEntropyOp, [logits, target], rules)[0])];
      };
      return plainGradient({ inputs: [hidden, weight], needs: [wants.hidden, wants.weight] }, [g], plain);
    },
  );
  return { loss, count: countSupervised(target, ignoreIndex) };
}

/**
 * `body` for all rows of tensors [N, …], chunk by chunk, where a row of N takes `rowBytes` of temporaries, such as logits:
 * f32 [N]. Derivatives compute the temporaries again. For losses whose derivatives need all of them, unlike a sum's.
 */
export function overRowChunks(
  rows: readonly Tensor[],
  rowBytes: number,
  body: (...rows: Tensor[]) => Tensor,
  chunkBytes: number = defaultChunk(rows[0].device.profile),
): Tensor {
  const [count] = rows[0].shape;
  const chunk = chunkRows(count, rowBytes, chunkBytes);
  const made: Tensor[] = [];
  for (let at = 0; at < count; at += chunk)
    made.push(checkpoint(body, ...rows.map((t) => narrow(t, 0, at, Math.min(chunk, count - at)))));
  return made.length === 1 ? made[0] : cat(made, 0);
}

/**
 * Every chunk reads and writes dweight and reads the weight twice: on a GPU few chunks are quick; the cores of a software
 * adapter keep small ones in their caches.
 */
function defaultChunk({ class: kind, maxBindingBytes }: DeviceProfile): number {
  return kind === "gpu" ? Math.min(2 ** 28, maxBindingBytes / 2) : 2 ** 24;
}

/** Tokens a chunk: a multiple of 64, so that slices start where buffers may be bound. */
function chunkRows(tokens: number, rowBytes: number, chunkBytes: number): number {
  return Math.min(Math.max(tokens, 1), Math.max(64, Math.floor(chunkBytes / rowBytes / 64) * 64));
}

/** Logits are f32, of f16 operands too. */
const precise = ({ dtype }: Tensor) => (dtype === "f16" ? ({ outDtype: "f32" } as const) : {});

function overChunks(
  hidden: Tensor,
  weight: Tensor,
  target: Tensor,
  chunk: number,
  wants: { hidden: boolean; weight: boolean },
  { upstream, ...attrs }: { ignoreIndex: number; labelSmoothing: number; upstream: Tensor | undefined },
): Parts {
  const f32 = precise(hidden);
  const half = hidden.dtype === "f16" ? ({ gradDtype: "f16" } as const) : {};

  const losses: Tensor[] = [];
  const dhidden: Tensor[] = [];
  let dweight: Tensor | null = null;
  // No tokens are one chunk too: its sums are zeros.
  for (let at = 0; at === 0 || at < hidden.shape[0]; at += chunk) {
    const rows = Math.min(chunk, hidden.shape[0] - at);
    const h = narrow(hidden, 0, at, rows);
    const labels = narrow(target, 0, at, rows);
    const logits = matmul(h, transpose(weight, 0, 1), f32);
    if (!wants.hidden && !wants.weight) {
      losses.push(apply(crossEntropyOp, [logits, labels], attrs)[0]);
      logits.storage.free();
      continue;
    }
    const [loss, dlogits] = apply(crossEntropyUnitOp, [logits, labels, ...(upstream ? [upstream] : [])], {
      ...attrs,
      ...half,
    });
    logits.storage.free();
    losses.push(loss);
    if (wants.hidden) dhidden.push(matmul(dlogits, weight));
    if (wants.weight) {
      const before: Tensor | null = dweight;
      const residual = before ? { residual: before } : {};
      dweight = linear(transpose(dlogits, 0, 1), transpose(h, 0, 1), null, { ...residual, ...f32 });
      before?.storage.free();
    }
    dlogits.storage.free();
  }
  return {
    loss: sum(losses.length === 1 ? losses[0] : cat(losses, 0)),
    dhidden: wants.hidden ? (dhidden.length === 1 ? dhidden[0] : cat(dhidden, 0)) : null,
    dweight,
  };
}
