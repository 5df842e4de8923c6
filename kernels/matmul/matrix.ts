import type { Call, Lowering, MatrixShape } from "../../core/op.ts";
import { matrixDefines } from "../../core/webgpu/matrix_units.ts";
import { type Geometry, geometryOf, type MatmulAttrs, residualFits } from "./geometry.ts";
import { fullDevice, planTiles, shapeClassOf, splitsFor } from "./plan.ts";

/** A tile of the kernel for matrix units. */
export interface MatrixTile {
  /** Subgroups of a workgroup, down and across the tile. */
  down: number;
  across: number;
  /** Rows and columns of C that a subgroup computes; multiples of the matrices. */
  rows: number;
  columns: number;
  /** Columns of A, and rows of B, in workgroup memory at a time. */
  step: number;
  /** Panels in workgroup memory: 2 saves a barrier for each. */
  stages: 1 | 2;
  /** Panels are arrays of vec4: threads write four elements at once, where the adapter can load matrices from such arrays. */
  vectors?: boolean;
}

/** Added to the rows of a panel, in elements, so that the rows of a matrix are in different banks. */
const padding = 8;

/** Rows of tiles that are walked together, so that what they share stays in the cache. */
const group = 8;

/** Those that the rule chooses from, largest first. */
export const tiles: readonly MatrixTile[] = [
  { down: 2, across: 2, rows: 64, columns: 64, step: 32, stages: 1 },
  { down: 2, across: 2, rows: 32, columns: 32, step: 32, stages: 1 },
  { down: 1, across: 2, rows: 32, columns: 32, step: 32, stages: 1 },
];

/** Further tiles, which a measurement may prefer. */
export const moreTiles: readonly MatrixTile[] = [
  { down: 2, across: 2, rows: 64, columns: 64, step: 32, stages: 1, vectors: true },
  { down: 2, across: 2, rows: 64, columns: 64, step: 32, stages: 2, vectors: true },
  { down: 2, across: 2, rows: 64, columns: 64, step: 32, stages: 2 },
  { down: 2, across: 2, rows: 64, columns: 64, step: 16, stages: 2 },
  { down: 2, across: 4, rows: 64, columns: 64, step: 32, stages: 1 },
  { down: 2, across: 4, rows: 64, columns: 32, step: 32, stages: 1 },
  { down: 2, across: 2, rows: 64, columns: 32, step: 32, stages: 1 },
  { down: 2, across: 2, rows: 32, columns: 32, step: 64, stages: 1 },
  { down: 2, across: 2, rows: 32, columns: 32, step: 32, stages: 1, vectors: true },
];

/** Tiles for tests: the emulation has small subgroups, and its compiler is slow. */
const emulatedTiles: readonly MatrixTile[] = [
  { down: 1, across: 1, rows: 8, columns: 8, step: 8, stages: 1 },
  { down: 1, across: 1, rows: 8, columns: 8, step: 8, stages: 1, vectors: true },
  { down: 2, across: 1, rows: 8, columns: 8, step: 16, stages: 2 },
];

const nameOf = ({ down, across, rows, columns, step, stages, vectors }: MatrixTile) =>
  `${down * rows}x${across * columns}x${step} by ${down * across}${stages === 2 ? " double" : ""}${vectors ? " vectors" : ""}`;

function threadsOf(tile: MatrixTile, subgroupSize: number): number {
  return tile.down * tile.across * subgroupSize;
}

const extentsOf = ({ down, across, rows, columns }: MatrixTile) => ({
  rows: down * rows,
  columns: across * columns,
});

/** How many matrices of a row a subgroup hands to its threads at a time: as many as fit beside the panels; 0 if none does. */
function drainedOf(tile: MatrixTile, { m, n }: MatrixShape, { profile }: Call<MatmulAttrs>): number {
  const { rows, columns } = extentsOf(tile);
  // Panels may be stored either way; this is the longer of the two.
  const panel = (extent: number) => Math.max(extent * (tile.step + padding), tile.step * (extent + padding));
  const staged = tile.stages * (panel(rows) + panel(columns)) * 2;
  const across = tile.columns / n;
  for (let count = across; count > 0; count--) {
    const drained = tile.down * tile.across * m * (count * n + 4) * 4;
    if (across % count === 0 && staged + drained <= profile.maxWorkgroupMemory) return count;
  }
  return 0;
}

function fits(tile: MatrixTile, shape: MatrixShape, call: Call<MatmulAttrs>): boolean {
  const { m, n, k } = shape;
  return (
    tile.rows % m === 0 &&
    tile.columns % n === 0 &&
    tile.step % k === 0 &&
    (!tile.vectors || call.profile.matrix!.vectors !== null) &&
    threadsOf(tile, call.profile.subgroupSize) <= call.profile.maxWorkgroupSize &&
    drainedOf(tile, shape, call) > 0
  );
}

interface Choices {
  shape: MatrixShape;
  /** Those that the rule chooses from. */
  tiles: MatrixTile[];
  /** Those that are measured, which include the rule's. */
  all: MatrixTile[];
}

/** The shape of the matrices, and the tiles that go with it: the first shape that has any. */
function choicesOf(call: Call<MatmulAttrs>): Choices | undefined {
  const { shapes, dialect, refused } = call.profile.matrix!;
  const emulated = dialect === "emulated";
  for (const shape of shapes) {
    const usable = (tile: MatrixTile) =>
      fits(tile, shape, call) && !refused.includes(`matmul ${nameOf(tile)}`);
    const ruled = (emulated ? emulatedTiles : tiles).filter(usable);
    if (ruled.length > 0)
      return { shape, tiles: ruled, all: [...ruled, ...(emulated ? [] : moreTiles.filter(usable))] };
  }
  return undefined;
}

/** f16 products that are large enough to fill a matrix; products of a server are judged by N and K alone. */
export function suitsMatrix(call: Call<MatmulAttrs>): boolean {
  const { matrix, subgroupSize } = call.profile;
  if (!matrix || subgroupSize === 0) return false;
  if (call.inputs[0].dtype !== "f16" && matrix.dialect !== "emulated") return false;
  if (!residualFits(call) || !choicesOf(call)) return false;
  const { M, N, K } = geometryOf(call);
  const least = matrix.dialect === "emulated" ? 1 : 16;
  return N >= least && K >= least && (call.attrs.batchInvariant || M >= least);
}

/** The largest tile that still fills the device, and the number of parts of K, more than one if no tile fills it. */
function ruleOf(call: Call<MatmulAttrs>, geometry: Geometry, { tiles }: Choices) {
  const { N, K } = geometry;
  // batchInvariant: the choice must not depend on the rows, so it is made as for a single one.
  const [M, batches] = call.attrs.batchInvariant ? [1, 1] : [geometry.M, geometry.batches];
  const count = (tile: MatrixTile) => {
    const { rows, columns } = extentsOf(tile);
    return Math.ceil(M / rows) * Math.ceil(N / columns) * batches;
  };
  const tile = tiles.find((t) => count(t) >= fullDevice / 2) ?? tiles.at(-1)!;
  return { tile, splits: count(tile) >= fullDevice / 2 ? 1 : splitsFor(count(tile), K, fullDevice, 256) };
}

/** The other tiles that the product could take: the same sums in the same order, under the rule's cuts of K. */
export function tuneMatrix(call: Call<MatmulAttrs>): { shapeClass: string; options: string[] } {
  const geometry = geometryOf(call);
  const choices = choicesOf(call)!;
  const rule = nameOf(ruleOf(call, geometry, choices).tile);
  const options = [...new Set([rule, ...choices.all.map(nameOf)])];
  return { shapeClass: shapeClassOf(call, geometry), options };
}

/** One workgroup per tile: the rule's, or the one that was measured to be quickest. */
export function planMatrix(call: Call<MatmulAttrs>, option?: string): Lowering {
  const geometry = geometryOf(call);
  const choices = choicesOf(call)!;
  const { shape, all } = choices;
  const rule = ruleOf(call, geometry, choices);
  const tile = all.find((t) => nameOf(t) === option) ?? rule.tile;
  const { rows, columns } = extentsOf(tile);
  const threads = threadsOf(tile, call.profile.subgroupSize);
  const { dialect, vectors } = call.profile.matrix!;
  const drained = drainedOf(tile, shape, call);
  return planTiles(call, geometry, {
    rows,
    columns,
    step: tile.step,
    defines: {
      ...matrixDefines({ dialect, vectors: tile.vectors ? vectors : null }, shape),
      DOWN: tile.down,
      ACROSS: tile.across,
      RM: tile.rows / shape.m,
      RN: tile.columns / shape.n,
      BK: tile.step,
      PAD: padding,
      STAGES: tile.stages,
      DRAIN_N: drained,
      DRAINS: tile.columns / shape.n / drained,
      GROUP: group,
      A_FETCHES: Math.ceil((rows * tile.step) / 4 / threads),
      B_FETCHES: Math.ceil((columns * tile.step) / 4 / threads),
      // Software adapters unroll loops of known length, which costs them seconds of compiling.
      PANEL: dialect === "emulated" ? "min(BK, w.kEnd + BK - k)" : "BK",
    },
    // An instruction adds products of 8 or 16 steps along K at once, so chains may be that much longer.
    splits: Math.max(rule.splits, Math.ceil(geometry.K / 65_536)),
    longestChain: Number.POSITIVE_INFINITY,
  });
}
