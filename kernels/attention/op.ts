import { isFloat } from "../../core/dtype.ts";
import { checkOptions, KilnError } from "../../core/errors.ts";
import { defineOp, opError, type TensorMeta } from "../../core/op.ts";
import { rankOf } from "../../core/shape.ts";
import { apply, recordView, type Tensor, zeros } from "../../core/tensor.ts";
import { cat } from "../pad/index.ts";
import { narrow } from "../views/index.ts";
import { type AttentionAttrs, type BackwardAttrs, backwardVariants, forwardVariants } from "./plan.ts";
import { attentionBackward, attentionForward } from "./reference.ts";
import { backwardSamples, forwardSamples } from "./samples.ts";

export interface AttentionOptions {
  /** Query i attends keys 0 … i, also where there are more or fewer keys than queries. */
  causal?: boolean | undefined;
  /** 1 / sqrt(D) when absent. */
  scale?: number | undefined;
  /** bool [B or 1, H or 1, T or 1, S]: false hides the key. */
  mask?: Tensor | undefined;
  /** i32 [B, T]: packed sequences; a query attends only keys of its own segment. */
  segments?: Tensor | undefined;
}

const attentionOptions = ["causal", "scale", "mask", "segments"];

/**
 * Scaled dot-product attention, softmax(scale * query key^T) value, without ever storing a score matrix (Dao et al. 2022,
 * FlashAttention). query [B, H, T, D], key and value [B, KV, S, D], KV dividing H: head h reads key head h * KV / H
 * (Ainslie et al. 2023). f32 or f16, sums in f32. Returns [B, H, T, D]. A hidden key contributes nothing, whatever it holds.
 * A row that sees no key, or none with a score above -1e29, is zero, and so is its gradient; one that sees a score of NaN or
 * +infinity is NaN. Memory laid out as [B, T, H, D] is read without a copy, and the result is laid out the same way.
 */
export function attention(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions = {}): Tensor {
  for (const t of [query, key, value]) rankOf("attention", t);
  const { causal = false, mask, segments } = checkOptions("attention", options, attentionOptions);
  const scale = options.scale ?? 1 / Math.sqrt(query.shape[3] ?? 1);
  if (!Number.isFinite(Math.fround(scale)))
    throw new KilnError(`attention: the scale is ${scale}; expected a finite number`);
  const batches = query.shape[0] ?? 0;
  const most = query.device.profile.maxGridExtent;
  if (batches > most) {
    // Each batch is a layer of the kernels' grids, which hold so many: part after part.
    const part = (t: Tensor, from: number) => narrow(t, 0, from, Math.min(most, batches - from));
    const own = (t: Tensor | undefined, from: number) => t && (t.shape[0] === 1 ? t : part(t, from));
    const parts = Array.from({ length: Math.ceil(batches / most) }, (_, i) => {
      const [q, k, v] = [query, key, value].map((t) => part(t, i * most)) as [Tensor, Tensor, Tensor];
      return attention(q, k, v, {
        ...options,
        scale,
        mask: own(mask, i * most),
        segments: own(segments, i * most),
      });
    });
    return cat(parts);
  }
  const extras = [mask, segments].filter((t): t is Tensor => t !== undefined);
  const attrs = { causal, scale, masked: mask !== undefined, segmented: segments !== undefined };
  return swapMiddle(apply(attentionOp, [query, key, value, ...extras], attrs)[0]);
}

/** [B, X, Y, D] seen as [B, Y, X, D]. */
function swapMiddle(t: Tensor): Tensor {
  const [a, b, c, d] = t.shape as [number, number, number, number];
  const [sa, sb, sc, sd] = t.strides as [number, number, number, number];
  return recordView(t.asStrided([a, c, b, d], [sa, sc, sb, sd], t.offset), t, "permute", swapMiddle);
}

function inferAttention(
  name: string,
  inputs: readonly TensorMeta[],
  main: readonly TensorMeta[],
  attrs: AttentionAttrs,
) {
  const [query, key, value] = main as [TensorMeta, TensorMeta, TensorMeta];
  const wrong = (expected: string) => opError(name, inputs, expected);
  if (main.some((t) => t.shape.length !== 4))
    throw wrong("expected query [B, H, T, D] and key and value [B, KV, S, D]");
  const [b, h, t, d] = query.shape as [number, number, number, number];
  const [kb, kv, s, kd] = key.shape as [number, number, number, number];
  if (
    kb !== b ||
    kd !== d ||
    kv < 1 ||
    h % kv !== 0 ||
    value.shape.some((extent, i) => extent !== key.shape[i])
  ) {
    throw wrong("expected query [B, H, T, D] and key and value of one shape [B, KV, S, D], KV dividing H");
  }
  if (!isFloat(query.dtype) || key.dtype !== query.dtype || value.dtype !== query.dtype) {
    throw wrong("expected query, key and value all f32 or all f16");
  }
  const extras = inputs.slice(name === "attention" ? 3 : 6);
  if (attrs.masked) {
    const mask = extras.shift()!;
    const fits = [b, h, t].every((extent, i) => mask.shape[i] === 1 || mask.shape[i] === extent);
    if (mask.dtype !== "bool" || mask.shape.length !== 4 || !fits || mask.shape[3] !== s) {
      throw wrong(`expected a bool mask [B or 1, H or 1, T or 1, S], here up to [${b}, ${h}, ${t}, ${s}]`);
    }
  }
  if (attrs.segmented) {
    const segments = extras.shift()!;
    const fits = segments.shape.length === 2 && segments.shape[0] === b && segments.shape[1] === t;
    if (segments.dtype !== "i32" || !fits || s !== t)
      throw wrong("expected i32 segments [B, T], and as many keys as queries");
  }
  return { b, h, t, d, kv, s, dtype: query.dtype };
}

/** Outputs: the result as [B, T, H, D], and the logarithm of each row's sum of exponentials, f32 [B, H, T], 0 where a row is zero for want of keys. */
export const attentionOp = defineOp<AttentionAttrs>({
  name: "attention",
  doc: "softmax(scale * query key^T) value with causal, boolean and segment masks, grouped key heads, online softmax. Hidden keys contribute nothing, whatever they hold; a row without a score above -1e29 is zero, one with NaN or +infinity among its scores NaN. Dao et al. 2022.",
  infer(inputs, attrs) {
    const { b, h, t, d, dtype } = inferAttention("attention", inputs, inputs.slice(0, 3), attrs);
    return [
      { shape: [b, t, h, d], dtype },
      { shape: [b, h, t], dtype: "f32" },
    ];
  },
  reference: attentionForward,
  gradient({ inputs, outputs, attrs }, [grad, lseGrad]) {
    const [query, key, value, ...extras] = inputs as [Tensor, Tensor, Tensor, ...Tensor[]];
    const [out, lse] = outputs as [Tensor, Tensor];
    const rest = lseGrad ? [...extras, lseGrad] : extras;
    const dOut = grad ?? zeros(out.shape, out.dtype, out.device);
    const all = { ...attrs, lseGrad: Boolean(lseGrad) };
    const found = apply(attentionBackwardOp, [dOut, query, key, value, out, lse, ...rest], all);
    return [...found.map(swapMiddle), ...extras.map(() => null)];
  },
  variants: forwardVariants,
  samples: forwardSamples,
});

/** Inputs: grad of the result, query, key, value, the result, lse, then mask, segments and grad of lse where present. */
export const attentionBackwardOp = defineOp<BackwardAttrs>({
  name: "attention_backward",
  doc: "The derivative of attention: dq [B, T, H, D], dk and dv [B, S, KV, D], weights recomputed from the log-sum-exp. Dao et al. 2022, section 3.",
  infer(inputs, attrs) {
    const { b, h, t, d, kv, s, dtype } = inferAttention(
      "attention_backward",
      inputs,
      inputs.slice(1, 4),
      attrs,
    );
    const like = [b, t, h, d];
    if (
      [inputs[0], inputs[4]].some((x) => x.dtype !== dtype || like.some((extent, i) => x.shape[i] !== extent))
    ) {
      throw new KilnError(`attention_backward: expected grad and out ${dtype}[${like.join(", ")}]`, {
        code: "shape_mismatch",
      });
    }
    if (inputs[5].dtype !== "f32") throw opError("attention_backward", inputs, "expected lse in f32");
    return [
      { shape: like, dtype },
      { shape: [b, s, kv, d], dtype },
      { shape: [b, s, kv, d], dtype },
    ];
  },
  reference: attentionBackward,
  notDifferentiable:
    "second derivatives of fused attention are not built; compose it from matmul and softmax",
  variants: backwardVariants,
  samples: backwardSamples,
});
