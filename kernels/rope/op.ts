import { isFloat } from "../../core/dtype.ts";
import {
  type Call,
  defineOp,
  type Op,
  opError,
  type Pass,
  type Sample,
  type TensorMeta,
} from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { cast, mul, neg, sub } from "../elementwise/index.ts";
import { foldGrid } from "../include/grid.ts";
import { sum } from "../reduce/index.ts";
import { narrow, reshape, slice } from "../views/index.ts";

export interface RopeAttrs {
  /** Pairs are neighbours (GPT-J) instead of halves of the head (Hugging Face). */
  interleaved: boolean;
  /** Turn back: the derivative. */
  inverse: boolean;
}

/**
 * Rotary position embedding (Su et al. 2021): turns pair p of each head by position * inverseFrequencies[p].
 * x is f32 or f16 [B, T, H, D] with positions i32 [B, T], or [N, H, D] with positions [N]; D is even and
 * inverseFrequencies f32 [D / 2]. Pairs are (p, p + D/2), the layout of Hugging Face, or (2p, 2p + 1) when `interleaved`.
 * Angles up to 1e5 are right to 1e-6. Positions get no derivative.
 */
export function rope(
  x: Tensor,
  inverseFrequencies: Tensor,
  positions: Tensor,
  options: { interleaved?: boolean } = {},
): Tensor {
  return apply(ropeOp, [x, inverseFrequencies, positions], {
    interleaved: options.interleaved ?? false,
    inverse: false,
  })[0];
}

/** Extents or strides with one for the batch axis in front; where x has none, that is `absent`. */
function withBatch(values: readonly number[], rank: number, absent: number): number[] {
  return values.length === rank ? [...values] : [absent, ...values];
}

function plan(call: Call<RopeAttrs>, vec: 1 | 4): Pass {
  const [x, frequencies, positions] = call.inputs as [TensorMeta, TensorMeta, TensorMeta];
  const [, tokens, heads, dim] = withBatch(x.shape, 4, 1) as [number, number, number, number];
  const pairs = dim / 2;
  const groups = Math.ceil(pairs / 4);
  const total = heads === 0 ? 0 : numel(positions.shape) * groups;
  return {
    defines: { VEC: vec, INTERLEAVED: call.attrs.interleaved },
    params: {
      x: withBatch(x.strides, 4, 0),
      positions: [...withBatch(positions.strides, 2, 0), positions.offset],
      offset: x.offset,
      frequencies: [frequencies.strides[0], frequencies.offset],
      tokens,
      heads,
      pairs,
      groups,
      total,
      turn: call.attrs.inverse ? -1 : 1,
    },
    grid: foldGrid(Math.ceil(total / 16), call.profile),
  };
}

function fitsFour({ inputs, attrs }: Call<RopeAttrs>): boolean {
  const x = inputs[0];
  const last = x.shape.length - 1;
  const aligned = x.strides.every((s, axis) => axis === last || x.shape[axis] === 1 || s % 4 === 0);
  return (
    !attrs.interleaved && x.shape[last] % 8 === 0 && x.strides[last] === 1 && x.offset % 4 === 0 && aligned
  );
}

/** dy/d(angle) is y turned by another quarter, and the angle is position * frequency. */
function frequencyGradient(
  y: Tensor,
  dy: Tensor,
  positions: Tensor,
  { interleaved, inverse }: RopeAttrs,
): Tensor {
  const dim = y.shape[y.rank - 1];
  const pick = (t: Tensor, which: 0 | 1): Tensor => {
    const wide = cast(t, "f32");
    if (!interleaved) return narrow(wide, -1, (which * dim) / 2, dim / 2);
    return slice(wide, "...", [which, dim, 2]);
  };
  const turn = sub(mul(pick(dy, 1), pick(y, 0)), mul(pick(dy, 0), pick(y, 1)));
  const place = reshape(cast(positions, "f32"), [...positions.shape, 1, 1]);
  const total = sum(
    mul(turn, place),
    y.shape.slice(1).map((_, axis) => axis),
  );
  return inverse ? neg(total) : total;
}

export const ropeOp: Op<RopeAttrs> = defineOp<RopeAttrs>({
  name: "rope",
  doc: "Turns the pairs of each head by position * inverse frequency. Su et al. 2021, RoFormer.",
  infer(inputs) {
    const [x, frequencies, positions] = inputs as [TensorMeta, TensorMeta, TensorMeta];
    const wrong = (expected: string) => opError("rope", inputs, expected);
    const rank = x.shape.length;
    if (!isFloat(x.dtype) || (rank !== 3 && rank !== 4))
      throw wrong("expected f32 or f16 x [B, T, H, D] or [N, H, D]");
    const dim = x.shape[rank - 1];
    if (
      dim % 2 !== 0 ||
      frequencies.dtype !== "f32" ||
      frequencies.shape.length !== 1 ||
      frequencies.shape[0] !== dim / 2
    ) {
      throw wrong("expected an even head dimension D and f32 inverse frequencies [D / 2]");
    }
    const tokens = x.shape.slice(0, rank - 2);
    if (
      positions.dtype !== "i32" ||
      positions.shape.length !== rank - 2 ||
      tokens.some((n, i) => n !== positions.shape[i])
    ) {
      throw wrong(`expected i32 positions [${tokens.join(", ")}], one for each token`);
    }
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x, frequencies, positions], { interleaved, inverse }, [y]) {
    const heads = x!.shape[x!.shape.length - 2];
    const pairs = frequencies!.data.length;
    for (let row = 0; row < numel(positions!.shape) * heads; row++) {
      const position = positions!.data[Math.floor(row / heads)] * (inverse ? -1 : 1);
      for (let p = 0; p < pairs; p++) {
        const i = row * 2 * pairs + (interleaved ? 2 * p : p);
        const j = interleaved ? i + 1 : i + pairs;
        const angle = position * frequencies!.data[p];
        y!.data[i] = x!.data[i] * Math.cos(angle) - x!.data[j] * Math.sin(angle);
        y!.data[j] = x!.data[j] * Math.cos(angle) + x!.data[i] * Math.sin(angle);
      }
    }
  },
  gradient({ inputs, outputs, attrs, needs }, [dy]) {
    const [, frequencies, positions] = inputs as [Tensor, Tensor, Tensor];
    const back = apply(ropeOp, [dy!, frequencies, positions], { ...attrs, inverse: !attrs.inverse })[0];
    const turned = needs[1] ? frequencyGradient(outputs[0], dy!, positions, attrs) : null;
    return [back, turned, null];
  },
  secondOrder: true,
  variants: [
    { name: "four", file: "rope/rope.wgsl", strided: true, when: fitsFour, plan: (call) => plan(call, 4) },
    { name: "plain", file: "rope/rope.wgsl", strided: true, plan: (call) => plan(call, 1) },
  ],
  samples() {
    const positions = (shape: number[], values: number[]) => ({ shape, dtype: "i32" as const, values });
    const frequencies = (pairs: number, theta = 10000) => ({
      shape: [pairs],
      dtype: "f32" as const,
      values: Array.from({ length: pairs }, (_, p) => Math.fround(theta ** (-p / pairs))),
    });
    const forward = { interleaved: false, inverse: false };
    const sample = (
      name: string,
      shape: number[],
      at: ReturnType<typeof positions>,
      attrs: RopeAttrs = forward,
    ): Sample<RopeAttrs> => ({
      name,
      inputs: [{ shape }, frequencies(shape[shape.length - 1] / 2), at],
      attrs,
    });
    const far = sample("far positions", [5, 2, 16], positions([5], [100000, 99999, 65537, 4095, 131071]));
    // A difference quotient would turn these by whole rounds.
    far.gradcheck = false;
    const strided = sample("strided", [3, 2, 8], positions([3], [0, 1, 2]));
    strided.inputs[0].layout = "strided";
    return [
      sample("batched", [2, 3, 2, 16], positions([2, 3], [0, 1, 2, 7, 8, 9])),
      sample("odd pairs", [3, 3, 10], positions([3], [5, 0, 31])),
      sample("interleaved", [2, 1, 12], positions([2], [3, 4]), { interleaved: true, inverse: false }),
      sample("inverse", [2, 1, 8], positions([2], [3, -4]), { interleaved: false, inverse: true }),
      far,
      strided,
      sample("no tokens", [0, 2, 8], positions([0], [])),
    ];
  },
});
