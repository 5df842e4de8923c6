import { isFloat } from "../../core/dtype.ts";
import {
  type Call,
  type DeviceProfile,
  defineOp,
  type Lowering,
  opError,
  type Pass,
  type SampleInput,
  type TensorMeta,
} from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";

/** Whether a tensor can hold indices. */
export function isIndex(t: TensorMeta | undefined): boolean {
  return t?.dtype === "i32" || t?.dtype === "u32";
}

/** A sample's ids: the values given, or random ones. */
const idsOf = (shape: number[], vocabulary: number, values?: number[]): SampleInput => ({
  shape,
  dtype: "i32",
  ...(values ? { values } : { range: [0, vocabulary - 1] }),
});

export const embeddingOp = defineOp<Record<string, never>>({
  name: "embedding",
  doc: "out[...] = weight[ids[...]]: ids i32 or u32 [...], weight [V, D], out [..., D]. Ids outside 0 to V-1 are mistakes: they give NaN, and so does the whole gradient of the weight.",
  infer(inputs) {
    const [ids, weight] = inputs;
    if (!isIndex(ids) || weight?.shape.length !== 2 || !isFloat(weight.dtype)) {
      throw opError("embedding", inputs, "expected i32 or u32 ids and a float weight [vocabulary, width]");
    }
    return [{ shape: [...ids.shape, weight.shape[1]], dtype: weight.dtype }];
  },
  reference([ids, weight], _attrs, [y]) {
    const [vocabulary, width] = weight.shape;
    ids.data.forEach((id, token) => {
      if (id < 0 || id >= vocabulary) y.data.fill(Number.NaN, token * width, (token + 1) * width);
      else y.data.set(weight.data.subarray(id * width, (id + 1) * width), token * width);
    });
  },
  gradient({ inputs: [ids, weight], needs }, [dy]) {
    return [null, dy && needs[1] ? embeddingBackward(dy, ids, weight.shape[0]) : null];
  },
  file: "embedding/forward.wgsl",
  plan({ inputs: [ids, weight], profile }) {
    const [vocabulary, width] = weight.shape;
    const vec = width % 4 === 0 ? 4 : 1;
    const tokens = numel(ids.shape);
    return {
      defines: { VEC: vec },
      params: { tokens, cols: width / vec, vocabulary },
      grid: foldGrid(Math.ceil((tokens * width) / vec / 256), profile),
    };
  },
  samples: () => {
    const of = (name: string, ids: number[], vocabulary: number, width: number, values?: number[]) => ({
      name,
      inputs: [idsOf(ids, vocabulary, values), { shape: [vocabulary, width] }],
      attrs: {},
    });
    return [
      of("odd", [4, 9], 11, 13),
      of("vec4", [300], 700, 8),
      of("no tokens", [0], 5, 4),
      { ...of("outside", [4], 3, 4, [-1, 0, 2, 3]), gradcheck: false },
    ];
  },
  secondOrder: true,
});

/**
 * Passes that leave tmp1 or tmp2 sorted by id; `last` holds the final order. Parallel: one thread per token, one
 * workgroup per block. Otherwise one thread per block, and a pass between counting and placing that adds up the counts.
 */
function sortPasses(profile: DeviceProfile, parallel: boolean, tokens: number, vocabulary: number) {
  const block = parallel ? 256 : Math.max(64, Math.ceil(Math.sqrt(tokens)));
  const blocks = Math.ceil(tokens / block);
  const rounds = Math.max(1, Math.ceil(Math.log2(vocabulary + 1) / 8));
  const files = parallel ? "embedding/block_" : "embedding/";
  const passes: Pass[] = [];
  for (let round = 0; round < rounds; round++) {
    const source = round % 2 === 1 ? "tmp1" : "tmp2";
    const sorted = round % 2 === 1 ? "tmp2" : "tmp1";
    const bind = round === 0 ? (["in1"] as const) : (["in1", source] as const);
    const common = {
      defines: { FIRST: round === 0 },
      params: { tokens, block, blocks, shift: 8 * round, vocabulary },
      grid: parallel ? foldGrid(blocks, profile) : ([Math.ceil(blocks / 64)] as const),
    };
    passes.push({ ...common, file: `${files}count.wgsl`, bind: [...bind, "tmp0"] });
    if (!parallel)
      passes.push({ file: "embedding/scan.wgsl", params: { blocks }, grid: [1], bind: ["tmp0"] });
    passes.push({ ...common, file: `${files}place.wgsl`, bind: [...bind, "tmp0", sorted] });
  }
  return { passes, last: rounds % 2 === 1 ? ("tmp1" as const) : ("tmp2" as const), blocks };
}

function planBackward({ inputs, attrs, profile }: Call<{ vocabulary: number }>, parallel: boolean): Lowering {
  const [dy, ids] = inputs;
  const { vocabulary } = attrs;
  const tokens = numel(ids.shape);
  const width = dy.shape[dy.shape.length - 1];
  const vec = width % 4 === 0 ? 4 : 1;
  const { passes, last, blocks } = sortPasses(profile, parallel, tokens, vocabulary);
  const starts: Pass = {
    file: "embedding/starts.wgsl",
    params: { tokens, vocabulary },
    grid: foldGrid(Math.ceil((vocabulary + 1) / 64), profile),
    bind: ["in1", last, "tmp3"],
  };
  const sum: Pass = {
    file: "embedding/sum.wgsl",
    defines: { VEC: vec, ...(parallel && { TOGETHER: 8 }) },
    params: { tokens, vocabulary, cols: width / vec },
    grid: foldGrid(Math.ceil((vocabulary * width) / vec / 64), profile),
    bind: ["in0", last, "tmp3", "out0"],
  };
  const words = (length: number) => ({ dtype: "u32" as const, length });
  return {
    temps: [words(256 * blocks), words(tokens), words(tokens), words(vocabulary + 1)],
    passes: [...passes, starts, sum],
  };
}

export const embeddingBackwardOp = defineOp<{ vocabulary: number }>({
  name: "embedding_backward",
  doc: "dweight [vocabulary, D] from dy [..., D] and ids [...]: each row sums its tokens' dy in token order, by a stable sort of the ids instead of float atomics, so the bits are always the same. All NaN where an id is outside 0 to vocabulary - 1.",
  infer(inputs, { vocabulary }) {
    const [dy, ids] = inputs;
    if (
      !isIndex(ids) ||
      dy?.shape.length !== ids.shape.length + 1 ||
      !ids.shape.every((n, i) => dy.shape[i] === n)
    ) {
      throw opError("embedding_backward", inputs, "expected dy [..., D] and ids [...]");
    }
    return [{ shape: [vocabulary, dy.shape[dy.shape.length - 1]], dtype: dy.dtype }];
  },
  reference([dy, ids], { vocabulary }, [dweight]) {
    const width = dy.shape[dy.shape.length - 1];
    ids.data.forEach((id, token) => {
      for (let i = 0; i < width; i++) dweight.data[id * width + i] += dy.data[token * width + i];
    });
    if (ids.data.some((id) => id < 0 || id >= vocabulary)) dweight.data.fill(Number.NaN);
  },
  gradient({ inputs: [, ids] }, [g]) {
    return [g && embedding(ids, g), null];
  },
  variants: [
    {
      name: "serial",
      file: "embedding/sum.wgsl",
      when: ({ profile }) => profile.class === "cpu",
      plan: (call) => planBackward(call, false),
    },
    { name: "parallel", file: "embedding/sum.wgsl", plan: (call) => planBackward(call, true) },
  ],
  samples: () => {
    const of = (name: string, tokens: number, width: number, vocabulary: number, values?: number[]) => ({
      name,
      inputs: [{ shape: [tokens, width] }, idsOf([tokens], vocabulary, values)],
      attrs: { vocabulary },
    });
    return [
      of("odd", 9, 3, 5),
      of("vec4", 200, 8, 11),
      { ...of("two digits", 700, 4, 3000), gradcheck: false },
      { ...of("three digits", 70, 4, 70000), gradcheck: false },
      of("no tokens", 0, 4, 3),
      { ...of("outside", 3, 4, 3, [1, 3, 0]), gradcheck: false },
      { ...of("below", 2, 3, 3, [-1, 0]), gradcheck: false },
    ];
  },
  secondOrder: true,
});

function embeddingBackward(dy: Tensor, ids: Tensor, vocabulary: number): Tensor {
  return apply(embeddingBackwardOp, [dy, ids], { vocabulary })[0];
}

/** Rows of weight [V, D] for ids [...] (i32 or u32): [..., D]. */
export function embedding(ids: Tensor, weight: Tensor): Tensor {
  return apply(embeddingOp, [ids, weight], {})[0];
}
