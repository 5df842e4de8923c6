import { wgslType } from "../../core/dtype.ts";
import type { Call, Lowering, Pass } from "../../core/op.ts";
import { foldGrid } from "../include/grid.ts";
import { type Activation, type Geometry, geometryOf, type MatmulAttrs, Mode, modeOf } from "./geometry.ts";
import { copyFirst, inRows, paysInRows } from "./to_rows.ts";

type MatmulCall = Call<MatmulAttrs>;

/** A kernel's tile of C, the step in which it walks along K, and the constants that it takes. */
export interface Tiling {
  rows: number;
  columns: number;
  step: number;
  defines: Record<string, number | boolean | string>;
  /** Loads single elements whatever the strides. */
  single?: boolean;
  /** The number of parts into which K is cut; each is summed by itself. */
  splits?: number;
  /** The longest part of K that is summed in one run, where it differs from the constant below. */
  longestChain?: number;
}

const activations: Record<Activation, number> = { gelu: 1, gelu_tanh: 2, silu: 3 };

/** K is cut at multiples of this, which every tile's step divides, so that the cuts do not depend on the tile. */
const splitGrain = 64;

/** The number of vectors of four that hold the extents, or strides, of the batch axes. */
const quadsOf = ({ batchShape }: Geometry) => `${Math.max(2, Math.ceil(batchShape.length / 4))}`;

/** A longer part of K is summed in runs of about the square root of its length. */
const longestChain = 1024;

/** The passes of a product: one, or one that sums parts of K and one that adds the parts. */
export function planTiles(call: MatmulCall, geometry: Geometry, tiling: Tiling): Lowering {
  const { M, N, K, batches } = geometry;
  const wanted = Math.max(tiling.splits ?? 1, 1);
  const kPerSplit = Math.max(Math.ceil(K / wanted / splitGrain), 1) * splitGrain;
  const splits = Math.max(Math.ceil(K / kPerSplit), 1);
  const chain = Math.min(K, kPerSplit);
  const tilesM = Math.ceil(M / tiling.rows);
  const tilesN = Math.ceil(N / tiling.columns);
  const grid = foldGrid(tilesM * tilesN * batches * splits, call.profile);
  const bare = splits > 1;
  const product: Pass = {
    defines: {
      ...tiling.defines,
      ...epilogueDefines(call, bare),
      TB: wgslType(call.inputs[1].dtype),
      B_NF4: geometry.b.nf4 ?? false,
      A_MODE: tiling.single ? Mode.single : modeOf(geometry.a),
      B_MODE: tiling.single ? Mode.single : modeOf(geometry.b),
      C_VEC: !tiling.single && storesVectors(call, N),
      EDGE_K: K % tiling.step !== 0,
      QUADS: quadsOf(geometry),
      RUNS: chain > (tiling.longestChain ?? longestChain),
    },
    params: {
      ...operandParams(geometry),
      ...epilogueParams(call, bare),
      tilesM,
      tilesN,
      gridX: grid[0],
      splits,
      kPerSplit,
      run: Math.ceil(Math.sqrt(chain) / splitGrain) * splitGrain,
      origin: 0,
    },
    grid,
    bind: ["in0", "in1", ...epilogueInputs(call, bare), bare ? "tmp0" : "out0"],
  };
  if (splits === 1) return { passes: [product] };
  const rows = batches * M;
  return {
    passes: [product, combinePass(call, rows, N, splits)],
    temps: [{ dtype: "f32", length: splits * rows * N }],
  };
}

function combinePass(call: MatmulCall, rows: number, N: number, splits: number): Pass {
  const grid = foldGrid(Math.ceil((rows * Math.ceil(N / 4)) / 64), call.profile);
  return {
    file: "matmul/combine.wgsl",
    defines: { ...epilogueDefines(call, false), C_VEC: storesVectors(call, N) },
    params: { N, rows, splits, gridX: grid[0], ...epilogueParams(call, false) },
    grid,
    bind: ["tmp0", ...epilogueInputs(call, false), "out0"],
  };
}

function storesVectors({ inputs, attrs }: MatmulCall, N: number): boolean {
  return N % 4 === 0 && (!attrs.residual || inputs.at(-1)!.offset % 4 === 0);
}

/** Nothing for `bare` sums, which are parts: the pass that adds them takes bias and residual. */
function epilogueInputs({ inputs }: MatmulCall, bare: boolean): NonNullable<Pass["bind"]> {
  return bare ? [] : inputs.slice(2).map((_, i) => `in${i + 2}` as const);
}

function epilogueDefines(
  { inputs, outputs, attrs }: MatmulCall,
  bare: boolean,
): Record<string, number | boolean | string> {
  return {
    // In f32 a part is stored like a whole product, by the same kernel.
    PARTIAL: bare && outputs[0].dtype !== "f32",
    BIAS: Boolean(attrs.bias) && !bare,
    RESIDUAL: Boolean(attrs.residual) && !bare,
    ACTIVATION: attrs.activation && !bare ? activations[attrs.activation] : 0,
    TBIAS: wgslType(inputs[attrs.bias ? 2 : 0].dtype),
    TRESIDUAL: wgslType(inputs.at(-1)!.dtype),
    V: "vec4<f32>",
    VB: "vec4<bool>",
    VU: "vec4<u32>",
  };
}

function epilogueParams({ inputs, attrs }: MatmulCall, bare: boolean): Record<string, number> {
  return {
    scale: bare ? 1 : (attrs.scale ?? 1),
    biasOffset: attrs.bias ? inputs[2].offset : 0,
    biasStride: attrs.bias ? inputs[2].strides[0] : 0,
    residualOffset: attrs.residual ? inputs.at(-1)!.offset : 0,
  };
}

function operandParams({ M, N, K, a, b, batchShape, batches }: Geometry): NonNullable<Pass["params"]> {
  return {
    M,
    N,
    K,
    batches,
    batchAxes: batchShape.length,
    aOffset: a.offset,
    aRow: a.row,
    aCol: a.col,
    bOffset: b.offset,
    bRow: b.row,
    bCol: b.col,
    batchShape,
    aBatch: a.batch,
    bBatch: b.batch,
  };
}

/** One subgroup per tile, after a copy of B to rows where that pays. */
export function planSubgroup(call: MatmulCall): Lowering {
  const geometry = geometryOf(call);
  return paysInRows(call, geometry) ? planSubgroupInRows(call) : planSubgroupTiles(call, geometry);
}

/** The same sums in the same order, with a quarter of the loads of B that its columns would take. */
export function planSubgroupInRows(call: MatmulCall): Lowering {
  const geometry = geometryOf(call);
  return copyFirst(call, geometry, planSubgroupTiles(call, inRows(geometry)));
}

/** Few rows get short tiles, so that a server's small batches compute no unused rows. */
function planSubgroupTiles(call: MatmulCall, geometry: Geometry): Lowering {
  const { M, N, K } = geometry;
  const SG = call.profile.subgroupSize;
  // Twice the rows make large products a tenth to a third faster; for others they only take longer to compile.
  const large = Math.min(M, N) >= 512 && K >= 256;
  const TM = M === 1 ? 1 : M <= 8 ? 4 : large ? 32 : 16;
  // Subgroups of four lanes hold two groups of columns in each lane, which gives the 32 columns that subgroups of eight have.
  const TN = SG <= 4 ? 2 : 1;
  const columns = 4 * SG * TN;
  const tiles = Math.ceil(M / TM) * Math.ceil(N / columns) * geometry.batches;
  return planTiles(call, geometry, {
    rows: TM,
    columns,
    step: 4,
    defines: { TM, TN, BELOW: TM - 1, AQ: Math.ceil(TM / SG), B_COLUMNS: 4 * TN },
    splits: call.attrs.batchInvariant ? 1 : splitsFor(tiles, geometry.K, 64, 256),
  });
}

/** The number of parts of K that gives about `enough` workgroups work, each with at least `least` of K. */
export function splitsFor(tiles: number, K: number, enough: number, least: number): number {
  return Math.max(1, Math.min(Math.ceil(enough / Math.max(tiles, 1)), Math.floor(K / least)));
}

/** Workgroups that fill a large GPU: two on each of 132 multiprocessors. */
export const fullDevice = 264;

/** A tile of a workgroup: rows, columns, step along K, and the vectors that a thread holds down and across. */
interface Tile {
  rows: number;
  columns: number;
  step: number;
  down: number;
  across: number;
}

/** Those that the rule chooses from, largest first. */
const tiles: readonly Tile[] = [
  { rows: 128, columns: 128, step: 16, down: 2, across: 2 },
  { rows: 64, columns: 64, step: 16, down: 2, across: 2 },
  { rows: 16, columns: 64, step: 16, down: 1, across: 1 },
];

/** Further tiles, which were nearly as fast as the first on one GPU and may be faster on another. */
const moreTiles: readonly Tile[] = [
  { rows: 128, columns: 128, step: 8, down: 2, across: 2 },
  { rows: 128, columns: 256, step: 8, down: 2, across: 4 },
  { rows: 64, columns: 128, step: 16, down: 2, across: 2 },
  { rows: 64, columns: 64, step: 8, down: 2, across: 2 },
  { rows: 32, columns: 64, step: 16, down: 1, across: 2 },
];

const nameOf = ({ rows, columns, step }: Tile) => `${rows}x${columns}x${step}`;
const threadsOf = ({ rows, columns, down, across }: Tile) => (rows * columns) / (16 * down * across);

function tileFits({ profile }: MatmulCall, { M, N }: Geometry, tile: Tile): boolean {
  const bytes = 4 * tile.step * (tile.rows + tile.columns);
  return (
    tile.rows <= M &&
    tile.columns <= 2 * N &&
    threadsOf(tile) <= profile.maxWorkgroupSize &&
    bytes <= profile.maxWorkgroupMemory
  );
}

/** The largest tile that still fills the device, and the number of parts of K, more than one if no tile fills it. */
function tiledRule(call: MatmulCall, geometry: Geometry): { tile: Tile; splits: number } {
  const { M, N, K, batches } = geometry;
  const count = (t: Tile) => Math.ceil(M / t.rows) * Math.ceil(N / t.columns) * batches;
  // On a software adapter this kernel is a last resort: its small tile compiles in a quarter of the time.
  const enough = call.profile.class === "cpu" ? 1 : fullDevice / 2;
  const tile = tiles.find((t) => tileFits(call, geometry, t) && count(t) >= enough) ?? tiles[M < 64 ? 2 : 1];
  // Every tile sums along K in the same order, so only the cuts of K must not depend on M.
  const work = call.attrs.batchInvariant ? Math.ceil(N / 64) : count(tile);
  return { tile, splits: work >= fullDevice / 2 ? 1 : splitsFor(work, K, fullDevice, 256) };
}

/** The other tiles that the product could take, under the rule's cuts of K: the same bits whichever is taken. */
export function tuneTiled(call: MatmulCall): { shapeClass: string; options: string[] } {
  const geometry = geometryOf(call);
  const rule = nameOf(tiledRule(call, geometry).tile);
  const others = [...tiles, ...moreTiles].filter((t) => tileFits(call, geometry, t)).map(nameOf);
  return { shapeClass: shapeClassOf(call, geometry), options: [...new Set([rule, ...others])] };
}

/** A class of products of nearly one size and the same layouts; a server's is named by what its model fixes. */
export function shapeClassOf({ attrs }: MatmulCall, { M, N, K, a, b, batches }: Geometry): string {
  const near = (n: number) => 2 ** Math.round(Math.log2(Math.max(n, 1)));
  const rows = attrs.batchInvariant ? "any" : near(M);
  return `${rows}x${near(N)}x${near(K)} ${modeOf(a)}${modeOf(b)} ${attrs.batchInvariant ? 1 : near(batches)}`;
}

/** One workgroup per tile: the rule's, or the one that was measured to be quickest. */
export function planTiled(call: MatmulCall, option?: string): Lowering {
  const geometry = geometryOf(call);
  const rule = tiledRule(call, geometry);
  const tile = [...tiles, ...moreTiles].find((t) => nameOf(t) === option) ?? rule.tile;
  const blocks = ((tile.rows + tile.columns) * tile.step) / 16;
  return planTiles(call, geometry, {
    rows: tile.rows,
    columns: tile.columns,
    step: tile.step,
    // Registers are scarce here, so products of usual lengths do without a second set of sums.
    longestChain: 4096,
    defines: {
      BM: tile.rows,
      BN: tile.columns,
      BK: tile.step,
      RM: tile.down,
      RN: tile.across,
      SUMS: 4 * tile.down * tile.across,
      FETCHES: Math.ceil(blocks / threadsOf(tile)),
      // Software adapters unroll loops of known length, which costs them seconds of compiling.
      PANEL: call.profile.class === "cpu" ? "min(BK, w.kEnd + BK - k)" : "BK",
    },
    splits: rule.splits,
  });
}

/** Four subgroups per workgroup, each for four columns of C. */
export function planGemv(call: MatmulCall): Lowering {
  const geometry = geometryOf(call);
  const ROWS = geometry.M === 1 ? 1 : geometry.M === 2 ? 2 : 4;
  return planTiles(call, geometry, { rows: ROWS, columns: 16, step: 4, defines: { ROWS } });
}

/** One thread per element. */
export function planPlain(call: MatmulCall): Lowering {
  return planTiles(call, geometryOf(call), { rows: 1, columns: 64, step: 1, defines: {}, single: true });
}
