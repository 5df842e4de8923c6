import type { Call, Lowering, ParamValue, Pass, TensorMeta, Variant } from "../../core/op.ts";
import { matrix, suitsMatrix } from "./matrix.ts";
import { suitsTiles, tiles, tuneTiles } from "./tiles.ts";

/** Fixed at the call; whether a mask and segments follow the three main inputs is part of it. */
export interface AttentionAttrs {
  causal: boolean;
  /** What scores are multiplied by, 1 / sqrt(D) as a rule. */
  scale: number;
  masked: boolean;
  segmented: boolean;
}

export interface BackwardAttrs extends AttentionAttrs {
  /** Whether the last input is the derivative with respect to the log-sum-exp. */
  lseGrad: boolean;
}

/** Which of a call's inputs is what. */
interface Roles {
  query: TensorMeta;
  key: TensorMeta;
  value: TensorMeta;
  grad?: TensorMeta;
  mask?: TensorMeta;
  segments?: TensorMeta;
}

function roles(inputs: readonly TensorMeta[], attrs: AttentionAttrs, backward: boolean): Roles {
  const main = backward ? 6 : 3;
  const [query, key, value] = backward ? inputs.slice(1, 4) : inputs;
  const found: Roles = { query: query!, key: key!, value: value! };
  if (backward) found.grad = inputs[0];
  if (attrs.masked) found.mask = inputs[main];
  if (attrs.segmented) found.segments = inputs[main + (attrs.masked ? 1 : 0)];
  return found;
}

/** Strides with those of axes of extent 1 set to 0: that is how broadcast masks repeat, and it never hurts others. */
function steps(t: TensorMeta): number[] {
  return t.shape.map((extent, axis) => (extent === 1 ? 0 : t.strides[axis]));
}

/** Whether rows can be read four components at a time. */
function isVectorised(t: TensorMeta): boolean {
  const [batch, head, position, component] = steps(t) as [number, number, number, number];
  return component === 1 && [batch, head, position, t.offset].every((n) => n % 4 === 0);
}

/** What every kernel of this folder gets: layouts and extents, and the switches of `layout.wgsl`. */
function common(call: Call<AttentionAttrs>, backward: boolean) {
  const { attrs } = call;
  const { query, key, value, grad, mask, segments } = roles(call.inputs, attrs, backward);
  const offset = (t: TensorMeta | undefined) => t?.offset ?? 0;
  const [, heads, queries, dim] = query.shape as [number, number, number, number];
  const [, kvHeads, keys] = key.shape as [number, number, number];
  const params: Record<string, ParamValue> = {
    query: steps(query),
    key: steps(key),
    value: steps(value),
    offsets: [query, key, value, grad].map(offset),
    heads,
    group: heads / kvHeads,
    queries,
    keys,
    head_dim: dim,
    causal: attrs.causal ? 1 : 0,
    mask_offset: offset(mask),
    scale: attrs.scale,
  };
  // grad has the layout of the output, [B, T, H, D]; the kernels index it as they do the query.
  if (grad) params.grad = [0, 2, 1, 3].map((axis) => steps(grad)[axis]);
  if (mask) params.mask = steps(mask);
  if (segments) params.segments = [...steps(segments), offset(segments)];
  const defines = {
    HEAD_DIM: dim,
    BACKWARD: backward,
    MASKED: attrs.masked,
    MASK_ROWS: attrs.masked && mask!.shape[2] !== 1,
    SEGMENTED: attrs.segmented,
    PAIRS: attrs.masked || attrs.segmented ? 1 : 0,
  };
  return { params, defines, batches: query.shape[0], heads, kvHeads, queries, keys, dim };
}

/** The kernels of a call: the forward one, or the two of the backward one that follow its statistics. */
export type AttentionPass = "forward" | "dq" | "dkv";

/** How a family of kernels is laid out: its sources, the rows of a workgroup, and what specialises them. */
export interface Family {
  vector: boolean;
  rows: (call: Call<AttentionAttrs>, pass: AttentionPass) => number;
  files: { forward: string; backward: string };
  defines: (call: Call<AttentionAttrs>, pass: AttentionPass) => Record<string, number | boolean | string>;
}

/** The extents of a call and what its kernels share, as `common` gives them. */
type Common = ReturnType<typeof common>;

/** The family's kernel and, unless it is the plain one, the plain one on the rows that it marked. */
function withMending(family: Family, call: Call<AttentionAttrs>, pass: AttentionPass, all: Common): Pass[] {
  const [rows, heads] = pass === "dkv" ? [all.keys, all.kvHeads] : [all.queries, all.heads];
  const vectors: Record<string, number> = family.vector ? { VEC: 4, HEAD_DIM4: all.dim / 4 } : { VEC: 1 };
  const own: Pass = {
    file: family.files[pass === "forward" ? "forward" : "backward"],
    defines: {
      ...all.defines,
      KEYS_STAY: pass === "dkv",
      ...family.defines(call, pass),
      ...vectors,
    },
    params: all.params,
    grid: [Math.ceil(rows / family.rows(call, pass)), heads, all.batches],
  };
  if (family === plain) return [own];
  const [mending] = withMending(plain, call, pass, all) as [Pass];
  return [own, { ...mending, defines: { ...mending.defines, MEND: true } }];
}

function forwardPasses(family: Family, call: Call<AttentionAttrs>): Lowering {
  return { passes: withMending(family, call, "forward", common(call, false)) };
}

function backwardPasses(family: Family, call: Call<BackwardAttrs>): Lowering {
  const { attrs } = call;
  const all = common(call, true);
  const { batches, heads, queries, dim } = all;
  const [grad, , , , out, lse] = call.inputs as readonly [
    TensorMeta,
    unknown,
    unknown,
    unknown,
    TensorMeta,
    TensorMeta,
  ];
  const lseGrad = attrs.lseGrad ? call.inputs[call.inputs.length - 1] : undefined;
  const swapped = (t: TensorMeta) => [0, 2, 1, 3].map((axis) => steps(t)[axis]);
  const extras = [...(attrs.masked ? [6] : []), ...(attrs.segmented ? [attrs.masked ? 7 : 6] : [])];
  const main = ["in0", "in1", "in2", "in3", "tmp0", ...extras.map((i) => `in${i}` as const)] as const;
  const delta: Pass = {
    file: "attention/delta.wgsl",
    defines: { LSE_GRAD: attrs.lseGrad, VEC: family.vector ? 4 : 1 },
    params: {
      grad: swapped(grad),
      out: swapped(out),
      lse: steps(lse),
      ...(lseGrad && { lse_grad: steps(lseGrad) }),
      offsets: [grad, out, lse, lseGrad].map((t) => t?.offset ?? 0),
      heads,
      queries,
      cells: family.vector ? dim / 4 : dim,
    },
    grid: [Math.ceil(queries / 32), heads, batches],
    bind: ["in0", "in4", "in5", ...(lseGrad ? [`in${call.inputs.length - 1}` as const] : []), "tmp0"],
  };
  const products = (pass: "dq" | "dkv", outputs: NonNullable<Pass["bind"]>): Pass[] =>
    withMending(family, call, pass, all).map((by) => ({ ...by, bind: [...main, ...outputs] }));
  return {
    passes: [delta, ...products("dq", ["out0"]), ...products("dkv", ["out1", "out2"])],
    temps: [{ dtype: "f32", length: 2 * batches * heads * queries }],
  };
}

const plain: Family = {
  vector: false,
  rows: () => 32,
  files: { forward: "attention/plain.wgsl", backward: "attention/plain_backward.wgsl" },
  defines: () => ({}),
};

/** Queries a lane owns: two share each load and broadcast, as long as their rows stay in registers. */
function laneRows(call: Call<AttentionAttrs>, pass: AttentionPass): number {
  // Two as long as the unrolled body stays small: compilers of software adapters take seconds for thousands of lines.
  return pass === "forward" && call.profile.subgroupSize * call.inputs[0].shape[3] <= 128 ? 2 : 1;
}

/** One subgroup per workgroup; rows are shared by broadcasts. */
const lanes: Family = {
  vector: true,
  rows: (call, pass) => call.profile.subgroupSize * laneRows(call, pass),
  files: { forward: "attention/lanes.wgsl", backward: "attention/lanes_backward.wgsl" },
  defines: (call, pass) => {
    const { masked, segmented } = call.attrs;
    const mask = call.inputs[pass === "forward" ? 3 : 6];
    return {
      ROWS: laneRows(call, pass),
      MOVED: call.inputs[1].shape[3] / 4 - 1,
      // A mask that is the same for all queries, and segments, travel by broadcast like the keys.
      KEY_MASK: masked && mask!.shape[2] === 1,
      RANGES: segmented,
    };
  },
};

/** Software adapters with subgroups, and heads small enough for their registers and to compile quickly. */
function lanesFit(call: Call<AttentionAttrs>): boolean {
  const dim = call.inputs[1].shape[3];
  const { subgroupSize } = call.profile;
  return subgroupSize > 0 && subgroupSize <= 16 && dim % 4 === 0 && subgroupSize * dim <= 512;
}

/** Whether four components can be read at once from every tensor; others are read from copies. */
const aligned = (call: Call<AttentionAttrs>) =>
  call.inputs.every((t) => t.shape.length !== 4 || t.dtype === "bool" || isVectorised(t));

function variantsOf<A extends AttentionAttrs>(
  file: "forward" | "backward",
  passes: readonly [AttentionPass, ...AttentionPass[]],
  lower: (family: Family, call: Call<A>) => Lowering,
): Variant<A>[] {
  const of = (family: Family) => ({
    file: family.files[file],
    strided: aligned,
    plan: (call: Call<A>) => lower(family, call),
  });
  return [
    { name: "matrix", ...of(matrix), when: (call) => passes.every((pass) => suitsMatrix(call, pass)) },
    { name: "lanes", ...of(lanes), when: lanesFit },
    {
      name: "tiles",
      ...of(tiles()),
      when: (call) => passes.every((pass) => suitsTiles(call, pass)),
      plan: (call, option) => lower(tiles(option), call),
      tune: (call) => tuneTiles(call, file === "forward" ? "forward" : "dkv"),
    },
    { name: "plain", ...of(plain), strided: true },
  ];
}
export const forwardVariants = variantsOf<AttentionAttrs>("forward", ["forward"], forwardPasses);
export const backwardVariants = variantsOf<BackwardAttrs>("backward", ["dq", "dkv"], backwardPasses);
