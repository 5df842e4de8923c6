import { isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import {
  type Call,
  type DeviceProfile,
  defineOp,
  type Lowering,
  opError,
  type Pass,
  type TensorMeta,
} from "../../core/op.ts";
import { numel, rankOf, sameShape, show } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { pagedReference, writeReference } from "./reference.ts";
import { pagedSamples, writeSamples } from "./samples.ts";

/**
 * Positions that are summed on their own before they join the rest. Fixed: an answer must not depend on how many
 * other tokens there are, so neither may the number of positions a subgroup takes.
 */
const chunk = 256;

export interface PagedAttrs {
  /** What scores are multiplied by, 1 / sqrt(D) as a rule. */
  scale: number;
}

/**
 * Attention of a mixed batch of tokens over a paged key/value cache (Kwon et al. 2023, PagedAttention).
 * query [N, H, D]; keyCache and valueCache [num_blocks, block_size, KV, D], KV dividing H; blockTable i32
 * [num_sequences, max_blocks]; sequences i32 [N], the table row of each token, negative for rows of padding, which give
 * zeros; positions i32 [N]. A token attends positions 0 … its own of its sequence. Returns [N, H, D]: NaN for a token whose
 * sequence, position or one of whose blocks does not exist, or that sees a score of NaN or +infinity; zeros where all its
 * scores are below -1e29.
 *
 * The bits of a row depend on its sequence and position alone: every token, prefilled or decoded, takes one code path
 * that walks the context in chunks of 256 positions, and chunks join in order. The cache is laid out token by
 * token, so that writing a token is one contiguous copy and a block is one contiguous range.
 */
export function pagedAttention(
  query: Tensor,
  keyCache: Tensor,
  valueCache: Tensor,
  blockTable: Tensor,
  sequences: Tensor,
  positions: Tensor,
  options: { scale?: number | undefined } = {},
): Tensor {
  rankOf("paged_attention", query);
  const scale = options.scale ?? 1 / Math.sqrt(query.shape[2] ?? 1);
  if (!Number.isFinite(Math.fround(scale)))
    throw new KilnError(`paged_attention: the scale is ${scale}; expected a finite number`);
  return apply(pagedAttentionOp, [query, keyCache, valueCache, blockTable, sequences, positions], {
    scale,
  })[0];
}

/**
 * Writes key and value [N, KV, D] of N tokens into the caches [num_blocks, block_size, KV, D], in place. slots i32 [N]:
 * block * block_size + offset, negative to write nothing. No slot may occur twice.
 */
export function pagedKvWrite(
  keyCache: Tensor,
  valueCache: Tensor,
  key: Tensor,
  value: Tensor,
  slots: Tensor,
): void {
  apply(pagedKvWriteOp, [keyCache, valueCache, key, value, slots], {});
}

/**
 * Bytes that the sums of chunks may take. They grow with the longest context that the block table allows for, so a long
 * prompt is taken in slices of tokens. Half of a binding, since buffers of a pool are up to a quarter larger than asked for.
 */
const sliceBytes = (profile: DeviceProfile) => Math.min(2 ** 28, profile.maxBindingBytes / 2);

/** The numbers of rows of the block table and of blocks of the cache: an index from there on is a mistake. */
const boundsOf = (table: TensorMeta, cache: TensorMeta) => ({
  table_rows: table.shape[0],
  cache_blocks: cache.shape[0],
});

function plan(call: Call<PagedAttrs>): Lowering {
  const { inputs, profile, attrs } = call;
  const [query, cache, , table] = inputs as [TensorMeta, TensorMeta, TensorMeta, TensorMeta];
  const [tokens, heads, dim] = query.shape as [number, number, number];
  const [, blockSize, kvHeads] = cache.shape as [number, number, number];
  const blocks = table.shape[1];
  const cells = dim % 4 === 0 ? dim / 4 : dim;
  const chunks = Math.max(1, Math.ceil((blocks * blockSize) / chunk));
  const single = chunks === 1;
  const sums = heads * chunks;
  const fitting = single ? tokens : Math.floor(sliceBytes(profile) / (4 * sums * dim));
  const slice = Math.max(1, Math.min(tokens, fitting, profile.maxGridExtent));
  const defines = kernelDefines(call, single);
  const inOrder = ["in0", "in1", "in2", "in3", "in4", "in5"] as const;
  const bounds = boundsOf(table, cache);
  const passes: Pass[] = [];
  for (let first = 0; first < tokens; first += slice) {
    const count = Math.min(slice, tokens - first);
    const shared = { heads, first, blocks, chunks };
    passes.push({
      defines,
      params: { ...shared, kv_heads: kvHeads, ...bounds, group: heads / kvHeads, cells, scale: attrs.scale },
      grid: [heads, count, chunks],
      bind: [...inOrder, ...(single ? (["out0"] as const) : (["tmp0", "tmp1"] as const))],
    });
    if (single) continue;
    const total = count * heads * cells;
    passes.push({
      file: "paged_attention/combine.wgsl",
      defines,
      params: { ...shared, total },
      grid: foldGrid(Math.ceil(total / 64), profile),
      bind: ["in4", "in5", "out0", "tmp0", "tmp1"],
    });
  }
  const words = (length: number) => ({ dtype: "f32" as const, length });
  return { passes, temps: single ? [] : [words(slice * sums * dim), words(slice * sums * 2)] };
}

/** Vectors that a thread of `keys` may hold of its heads' queries, and as many of their results: more would be spilt. */
const heldVectors = 8;

/** Each dispatch takes a slice of the tokens, with all their keys; more than one is needed only for very many tokens. */
function planKeys({ inputs, profile, attrs }: Call<PagedAttrs>): Lowering {
  const [query, cache, , table] = inputs as [TensorMeta, TensorMeta, TensorMeta, TensorMeta];
  const [tokens, heads, dim] = query.shape as [number, number, number];
  const kvHeads = cache.shape[2];
  const group = heads / kvHeads;
  const cells = dim / 4;
  // The most heads of a group that fit and divide it.
  let grouped = Math.max(1, Math.min(group, Math.floor(heldVectors / cells)));
  while (group % grouped !== 0) grouped--;
  const lanes = Math.max(1, profile.subgroupSize);
  const bounds = boundsOf(table, cache);
  const passes: Pass[] = [];
  for (let first = 0; first < tokens; first += profile.maxGridExtent) {
    passes.push({
      defines: {
        CELLS: cells,
        HEAD_CELLS: grouped * cells,
        GROUPED: grouped,
        BLOCK_SIZE: cache.shape[1],
        LANES: lanes,
        LANE_ID: lanes > 1 ? "subgroup_invocation_id" : "local_invocation_index",
        V: "f32",
        VB: "bool",
        VU: "u32",
      },
      params: {
        kv_heads: kvHeads,
        ...bounds,
        splits: group / grouped,
        first,
        blocks: table.shape[1],
        scale: attrs.scale,
      },
      grid: [heads / grouped, Math.min(tokens - first, profile.maxGridExtent)],
    });
  }
  return { passes };
}

function kernelDefines({ inputs, profile }: Call<PagedAttrs>, single: boolean) {
  const dim = inputs[0].shape[2];
  const vector = dim % 4 === 0;
  const cell = (type: string) => (vector ? `vec4<${type}>` : type);
  const cells = vector ? dim / 4 : dim;
  const lanes = Math.max(1, profile.subgroupSize);
  return {
    CELLS: cells,
    // Cells of the head dimension that a lane sums.
    SHARE: Math.ceil(cells / lanes),
    CHUNK: chunk,
    BLOCK_SIZE: inputs[1].shape[1],
    LANES: lanes,
    LANE_ID: lanes > 1 ? "subgroup_invocation_id" : "local_invocation_index",
    VECTOR: vector,
    SINGLE: single,
    CELL: cell("f32"),
    CELL0: cell("T0"),
    CELL1: cell("T1"),
    CELL2: cell("T2"),
    OUT_CELL: cell("U0"),
  };
}

export const pagedAttentionOp = defineOp<PagedAttrs>({
  name: "paged_attention",
  doc: "Attention of single tokens over block tables, split by chunks of 256 positions, the same bits in any batch. NaN where a sequence, position or block does not exist. Kwon et al. 2023.",
  infer(inputs) {
    const [query, keys, values, table, sequences, positions] = inputs as TensorMeta[] & { length: 6 };
    const fail = (expected: string) => opError("paged_attention", inputs, expected);
    if (query!.shape.length !== 3 || keys!.shape.length !== 4 || !sameShape(keys!.shape, values!.shape)) {
      throw fail("expected query [N, H, D] and two caches [num_blocks, block_size, KV, D]");
    }
    const [tokens, heads, dim] = query!.shape as [number, number, number];
    if (keys!.shape[3] !== dim || heads % keys!.shape[2] !== 0) {
      throw fail("expected caches of the query's head dimension, and KV dividing H");
    }
    if (!isFloat(query!.dtype) || !isFloat(keys!.dtype) || keys!.dtype !== values!.dtype) {
      throw fail("expected f32 or f16, both caches alike");
    }
    const lists = [sequences!, positions!].every((t) => t.dtype === "i32" && sameShape(t.shape, [tokens]));
    if (!lists || table!.dtype !== "i32" || table!.shape.length !== 2) {
      throw fail("expected i32 block table [num_sequences, max_blocks], sequences [N] and positions [N]");
    }
    return [{ shape: query!.shape, dtype: query!.dtype }];
  },
  reference: pagedReference,
  notDifferentiable: "it serves; training uses attention",
  variants: [
    {
      name: "keys",
      file: "paged_attention/keys.wgsl",
      when: ({ inputs, profile }) => {
        const dim = inputs[0].shape[2];
        return profile.class === "cpu" && dim % 4 === 0 && dim <= 4 * heldVectors;
      },
      plan: planKeys,
    },
    { name: "chunks", file: "paged_attention/partial.wgsl", plan },
  ],
  samples: pagedSamples,
});

export const pagedKvWriteOp = defineOp<Record<never, never>>({
  name: "paged_kv_write",
  doc: "Copies the keys and values of tokens into their slots of a paged cache. Kwon et al. 2023.",
  infer(inputs) {
    const [keyCache, valueCache, key, value, slots] = inputs as TensorMeta[] & { length: 5 };
    const fail = (expected: string) => opError("paged_kv_write", inputs, expected);
    const row = keyCache!.shape.slice(2);
    const tokens = key!.shape[0] ?? 0;
    if (keyCache!.shape.length !== 4 || !sameShape(keyCache!.shape, valueCache!.shape)) {
      throw fail("expected two caches [num_blocks, block_size, KV, D]");
    }
    if (![key!, value!].every((t) => sameShape(t.shape, [tokens, ...row]) && isFloat(t.dtype))) {
      throw fail(`expected key and value ${show([tokens, ...row])}`);
    }
    if (slots!.dtype !== "i32" || !sameShape(slots!.shape, [tokens]))
      throw fail(`expected i32 slots [${tokens}]`);
    return [];
  },
  reference: writeReference,
  notDifferentiable: "it updates the cache in place",
  mutates: [0, 1],
  file: "paged_attention/write.wgsl",
  plan({ inputs, profile }) {
    const [cache, , key] = inputs as [TensorMeta, TensorMeta, TensorMeta];
    const width = numel(key.shape.slice(1));
    const total = numel(key.shape);
    const slots = cache.shape[0] * cache.shape[1];
    return { params: { width, total, slots }, grid: foldGrid(Math.ceil(total / 64), profile) };
  },
  samples: writeSamples,
});
