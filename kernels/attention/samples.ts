import type { Sample, SampleInput } from "../../core/op.ts";
import type { AttentionAttrs, BackwardAttrs } from "./plan.ts";

interface Case {
  name: string;
  /** Batch, heads, key heads, queries, keys, head dimension. */
  size: readonly [number, number, number, number, number, number];
  causal?: boolean;
  mask?: SampleInput;
  segments?: SampleInput;
  layout?: SampleInput["layout"];
  gradcheck?: boolean;
}

/** A mask [B, 1, T, S] in which the first query sees nothing at all. */
function patterned(b: number, t: number, s: number): SampleInput {
  const values = Array.from({ length: b * t * s }, (_, n) =>
    Math.floor(n / s) % t === 0 ? 0 : Number((n * 7) % 5 < 3),
  );
  return { shape: [b, 1, t, s], dtype: "bool", values };
}

const packed = (lengths: readonly number[]): number[] =>
  lengths.flatMap((n, i) => new Array<number>(n).fill(i));

const cases: Case[] = [
  { name: "odd", size: [2, 3, 3, 5, 7, 8] },
  { name: "causal", size: [1, 2, 2, 19, 19, 16], causal: true, gradcheck: false },
  { name: "causal, more keys", size: [1, 2, 1, 4, 9, 4], causal: true },
  { name: "causal, fewer keys", size: [1, 1, 1, 11, 3, 4], causal: true },
  { name: "grouped heads", size: [2, 6, 2, 9, 9, 4], causal: true, gradcheck: false },
  { name: "head dimension 5", size: [1, 2, 1, 3, 4, 5] },
  { name: "head dimension 24", size: [1, 2, 2, 21, 21, 24], causal: true, gradcheck: false },
  { name: "head dimension 64", size: [1, 2, 1, 37, 37, 64], causal: true, gradcheck: false },
  { name: "head dimension 128", size: [1, 1, 1, 18, 35, 128], gradcheck: false },
  { name: "long", size: [1, 2, 2, 150, 150, 32], causal: true, gradcheck: false },
  {
    name: "key mask",
    size: [2, 2, 1, 5, 6, 4],
    mask: { shape: [2, 1, 1, 6], dtype: "bool", values: [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0] },
  },
  { name: "pair mask, causal", size: [2, 2, 2, 6, 6, 4], causal: true, mask: patterned(2, 6, 6) },
  {
    name: "segments",
    size: [2, 2, 1, 7, 7, 4],
    causal: true,
    segments: { shape: [2, 7], dtype: "i32", values: [...packed([3, 4]), ...packed([1, 1, 5])] },
  },
  {
    name: "segments, long",
    size: [1, 2, 2, 70, 70, 16],
    causal: true,
    segments: { shape: [1, 70], dtype: "i32", values: packed([30, 7, 33]) },
    gradcheck: false,
  },
  {
    name: "segments and mask",
    size: [1, 1, 1, 9, 9, 4],
    mask: patterned(1, 9, 9),
    segments: { shape: [1, 9], dtype: "i32", values: [2, 0, 2, 0, 2, 0, 1, 1, 1] },
  },
  { name: "transposed", size: [1, 2, 2, 6, 5, 8], layout: "transposed", gradcheck: false },
  { name: "strided", size: [1, 2, 2, 6, 5, 8], layout: "strided", gradcheck: false },
  { name: "no keys", size: [1, 2, 2, 3, 0, 8], gradcheck: false },
  { name: "no queries", size: [1, 2, 2, 0, 3, 8], gradcheck: false },
];

function attrsOf({ size, causal = false, mask, segments }: Case): AttentionAttrs {
  return {
    causal,
    scale: 1 / Math.sqrt(size[5]),
    masked: mask !== undefined,
    segmented: segments !== undefined,
  };
}

const present = (...inputs: (SampleInput | undefined)[]) =>
  inputs.filter((x): x is SampleInput => x !== undefined);

export function forwardSamples(): Sample<AttentionAttrs>[] {
  return cases.map((c) => {
    const [b, h, kv, t, s, d] = c.size;
    const layout = c.layout ? { layout: c.layout } : {};
    const main = [
      [b, h, t, d],
      [b, kv, s, d],
      [b, kv, s, d],
    ].map((shape): SampleInput => ({ shape, ...layout }));
    const check = c.gradcheck === undefined ? {} : { gradcheck: c.gradcheck };
    return {
      name: c.name,
      inputs: [...main, ...present(c.mask, c.segments)],
      attrs: attrsOf(c),
      atol: 2e-5,
      rtol: 1e-4,
      ...check,
    };
  });
}

/** The saved output and log-sum-exp need not belong to the inputs: kernels are held to the same formula. */
export function backwardSamples(): Sample<BackwardAttrs>[] {
  return cases.flatMap((c) => {
    const [b, h, kv, t, s, d] = c.size;
    // Software adapters compile the backward kernels of this size for half a minute, and they differ in a count alone.
    if (d === 64) return [];
    const layout = c.layout ? { layout: c.layout } : {};
    const shapes = [
      [b, t, h, d],
      [b, h, t, d],
      [b, kv, s, d],
      [b, kv, s, d],
      [b, t, h, d],
    ];
    const main = shapes.map((shape): SampleInput => ({ shape, range: [-1, 1], ...layout }));
    const lse: SampleInput = { shape: [b, h, t], dtype: "f32", range: [2, 3], ...layout };
    const inputs = [...main, lse, ...present(c.mask, c.segments)];
    const shared = { atol: 5e-5, rtol: 2e-4, gradcheck: false };
    const plain = { name: c.name, inputs, attrs: { ...attrsOf(c), lseGrad: false }, ...shared };
    if (c.name !== "odd" && !c.layout) return [plain];
    const attrs = { ...plain.attrs, lseGrad: true };
    return [plain, { ...plain, name: `${c.name}, grad of lse`, inputs: [...inputs, lse], attrs }];
  });
}
