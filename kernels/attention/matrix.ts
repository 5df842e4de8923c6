import type { Call, DeviceProfile, MatrixShape } from "../../core/op.ts";
import { matrixDefines } from "../../core/webgpu/matrix_units.ts";
import type { AttentionAttrs, AttentionPass, Family } from "./plan.ts";

/** A workgroup of the kernels for matrix units. */
interface MatrixTile {
  subgroups: number;
  /** Blocks of rows, each as high as a matrix, that a subgroup owns. */
  blocks: number;
  /** Keys, or queries, that it is multiplied with at a time. */
  walk: number;
}

/** The first that fits is taken; forward, and in either kernel of the backward pass, which keeps twice as much. */
export const tiles: Record<"forward" | "backward", readonly MatrixTile[]> = {
  forward: [
    { subgroups: 4, blocks: 1, walk: 64 },
    { subgroups: 4, blocks: 1, walk: 32 },
    { subgroups: 2, blocks: 1, walk: 32 },
  ],
  backward: [
    { subgroups: 4, blocks: 1, walk: 32 },
    { subgroups: 2, blocks: 1, walk: 32 },
  ],
};

/** For tests: the emulation is slow, and so are its compilers. Larger subgroups need more rows for their lanes to share. */
const emulatedTiles: readonly MatrixTile[] = [
  { subgroups: 2, blocks: 1, walk: 8 },
  { subgroups: 2, blocks: 1, walk: 16 },
  { subgroups: 2, blocks: 2, walk: 16 },
  { subgroups: 2, blocks: 4, walk: 16 },
  { subgroups: 2, blocks: 8, walk: 16 },
];

interface Layout {
  shape: MatrixShape;
  tile: MatrixTile;
  dim: number;
}

/** Bytes of workgroup memory, as the sources add them up. */
function memoryOf({ shape, tile, dim }: Layout, pass: AttentionPass): number {
  const rows = tile.subgroups * tile.blocks * shape.m;
  const [panel, own] = [tile.walk * (dim + 8), rows * (dim + 8)];
  const weights = rows * (tile.walk + 8);
  const scores = rows * (tile.walk + 4) * 4;
  if (pass === "forward") {
    const staged = Math.max(Math.max(panel, weights) + panel, own);
    return 2 * staged + scores + 4 * (2 * rows + tile.subgroups);
  }
  const [weightPanels, statistics] = pass === "dkv" ? [2, 8 * tile.walk] : [1, 0];
  return 2 * Math.max(2 * panel + weightPanels * weights, 2 * own) + 2 * scores + statistics + 4 * rows;
}

function fits(layout: Layout, pass: AttentionPass, profile: DeviceProfile): boolean {
  const { shape, tile, dim } = layout;
  const { m, n, k } = shape;
  const lanes = profile.subgroupSize;
  const chunk = Math.min(tile.walk, dim);
  const rows = tile.blocks * m;
  return (
    [k, n, chunk].every((extent) => dim % extent === 0) &&
    [k, n].every((extent) => tile.walk % extent === 0) &&
    lanes % rows === 0 &&
    (tile.walk / 4) % (lanes / rows) === 0 &&
    tile.subgroups * lanes <= profile.maxWorkgroupSize &&
    memoryOf(layout, pass) <= profile.maxWorkgroupMemory
  );
}

/** The layout of a call's kernel, or undefined where matrix units cannot take it. */
function layoutOf({ profile, inputs }: Call<AttentionAttrs>, pass: AttentionPass): Layout | undefined {
  const { dialect, shapes } = profile.matrix!;
  const kind = pass === "forward" ? "forward" : "backward";
  const dim = inputs[1].shape[3];
  for (const shape of shapes) {
    for (const tile of dialect === "emulated" ? emulatedTiles : tiles[kind]) {
      const layout = { shape, tile, dim };
      if (fits(layout, pass, profile)) return layout;
    }
  }
  return undefined;
}

/** Head dimensions that the kernels are tried with before they are used. */
export const matrixHeads = [32, 64, 96, 128];

/** f16 heads of these dimensions, and in tests of any that matrices divide. */
export function suitsMatrix(call: Call<AttentionAttrs>, pass: AttentionPass): boolean {
  const { matrix, subgroupSize } = call.profile;
  const [dim, dtype] = [call.inputs[1].shape[3], call.inputs[1].dtype];
  if (!matrix || subgroupSize === 0 || dim === 0) return false;
  if (matrix.dialect !== "emulated" && (dtype !== "f16" || !matrixHeads.includes(dim))) return false;
  if (matrix.refused.includes(`${pass === "forward" ? "attention" : "attention_backward"} ${dim}`))
    return false;
  return layoutOf(call, pass) !== undefined;
}

/** Rows in subgroups of matrices, the others through workgroup memory. */
export const matrix: Family = {
  vector: true,
  rows: (call, pass) => {
    const { shape, tile } = layoutOf(call, pass)!;
    return tile.subgroups * tile.blocks * shape.m;
  },
  files: { forward: "attention/matrix.wgsl", backward: "attention/matrix_backward.wgsl" },
  defines: (call, pass) => {
    const { shape, tile, dim } = layoutOf(call, pass)!;
    const parts = call.profile.subgroupSize / (tile.blocks * shape.m);
    const chunk = Math.min(tile.walk, dim);
    return {
      ...matrixDefines(call.profile.matrix!, shape),
      SUBGROUPS: tile.subgroups,
      BLOCKS: tile.blocks,
      WALK: tile.walk,
      PARTS: parts,
      VECTORS: tile.walk / 4 / parts,
      DIM_K: dim / shape.k,
      DIM_N: dim / shape.n,
      WALK_K: tile.walk / shape.k,
      WALK_N: tile.walk / shape.n,
      CHUNKS: dim / chunk,
      CHUNK_N: chunk / shape.n,
    };
  },
};
