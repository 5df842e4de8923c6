import type { Call } from "../../core/op.ts";
import type { AttentionAttrs, AttentionPass, Family } from "./plan.ts";

/** A workgroup of the kernels in register tiles; see tiles_layout.wgsl. */
interface Tile {
  /** Queries, or keys, that the workgroup owns. */
  rows: number;
  /** How many of them a thread has: what it does with a load from workgroup memory grows with it. */
  each: number;
  /** Threads that share a row; the workgroup walks four times as many keys, or queries, at a time. */
  columns: number;
}

type Kind = "forward" | "backward";

/** The first that fits is taken, unless another was measured to be quicker; the backward pass has twice the panels. */
const tilesFor: Record<Kind, readonly Tile[]> = {
  forward: [
    { rows: 64, each: 8, columns: 8 },
    { rows: 32, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 4 },
  ],
  backward: [
    { rows: 32, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 8 },
    { rows: 16, each: 2, columns: 4 },
    { rows: 8, each: 1, columns: 4 },
  ],
};

/** Taken only where measured: fewer loads for longer rows of registers, or the other way round. */
const moreTiles: Record<Kind, readonly Tile[]> = {
  forward: [
    { rows: 128, each: 8, columns: 8 },
    { rows: 64, each: 4, columns: 8 },
  ],
  backward: [
    { rows: 64, each: 8, columns: 8 },
    { rows: 64, each: 4, columns: 8 },
    { rows: 32, each: 2, columns: 8 },
  ],
};

/** For software adapters, where these kernels run in tests: small samples then have several blocks of everything. */
const smallTiles: readonly Tile[] = [{ rows: 8, each: 4, columns: 2 }];

/** Vectors of results that a thread sums in registers: half of what compilers have to give. */
const mostSums = 32;

const kindOf = (pass: AttentionPass): Kind => (pass === "forward" ? "forward" : "backward");
const nameOf = ({ rows, each }: Tile) => `${rows} by ${each}`;
const shareOf = ({ columns }: Tile, dim: number) => Math.ceil(dim / 4 / columns);

/** Bytes of workgroup memory, as the sources add them up. */
export function memoryOf({ rows, columns }: Tile, dim: number, pass: AttentionPass): number {
  const line = (dim / 4) | 1;
  const walk = 4 * columns;
  const weights = rows * (columns | 1);
  if (pass === "forward") return 16 * ((rows + walk) * line + weights) + 4 * rows * columns;
  const panels = 2 * (rows + walk) * line;
  return pass === "dq" ? 16 * (panels + weights) : 16 * (panels + 2 * weights) + 8 * walk;
}

function fits({ profile, inputs }: Call<AttentionAttrs>, pass: AttentionPass, tile: Tile): boolean {
  const dim = inputs[1].shape[3];
  const sums = tile.each * shareOf(tile, dim) * (pass === "dkv" ? 2 : 1);
  return (
    (tile.rows / tile.each) * tile.columns <= profile.maxWorkgroupSize &&
    memoryOf(tile, dim, pass) <= profile.maxWorkgroupMemory &&
    sums <= mostSums
  );
}

/** The tiles of a call's kernel that give the same bits, the rule's first: sums depend on the columns alone. */
function tilesOf(call: Call<AttentionAttrs>, pass: AttentionPass): readonly Tile[] {
  const software = call.profile.class === "cpu";
  const rule = (software ? smallTiles : tilesFor[kindOf(pass)]).find((tile) => fits(call, pass, tile));
  if (!rule || software) return rule ? [rule] : [];
  const others = [...tilesFor[kindOf(pass)], ...moreTiles[kindOf(pass)]].filter(
    (tile) => tile !== rule && tile.columns === rule.columns && fits(call, pass, tile),
  );
  return [rule, ...others];
}

function tileOf(call: Call<AttentionAttrs>, pass: AttentionPass, option?: string): Tile {
  const all = tilesOf(call, pass);
  return all.find((tile) => nameOf(tile) === option) ?? all[0];
}

/** Heads of up to 128 components, by four; on software adapters of up to 24, whose kernels compile in a second. */
export function suitsTiles(call: Call<AttentionAttrs>, pass: AttentionPass): boolean {
  const dim = call.inputs[1].shape[3];
  const most = call.profile.class === "gpu" ? 128 : 24;
  return dim > 0 && dim % 4 === 0 && dim <= most && tilesOf(call, pass).length > 0;
}

/** The tiles that a kernel could take, for calls of nearly one size; both kernels of the backward pass take one name. */
export function tuneTiles(call: Call<AttentionAttrs>, pass: "forward" | "dkv") {
  const { attrs, inputs } = call;
  const [query, key] = pass === "forward" ? inputs : inputs.slice(1);
  const near = (n: number) => 2 ** Math.round(Math.log2(Math.max(n, 1)));
  const [batch, heads, queries, dim] = query!.shape as [number, number, number, number];
  const pairs = `${attrs.causal ? " causal" : ""}${attrs.masked ? " mask" : ""}${attrs.segmented ? " segments" : ""}`;
  const size = `${near(batch * heads)}x${near(queries)}x${near(key!.shape[2])}x${dim}`;
  return { shapeClass: size + pairs, options: tilesOf(call, pass).map(nameOf) };
}

/** Products of register tiles, panels shared through workgroup memory; `option` is one of those that `tuneTiles` names. */
export function tiles(option?: string): Family {
  return {
    vector: true,
    rows: (call, pass) => tileOf(call, pass, option).rows,
    files: { forward: "attention/tiles.wgsl", backward: "attention/tiles_backward.wgsl" },
    defines: (call, pass) => {
      const tile = tileOf(call, pass, option);
      return {
        EACH: tile.each,
        // Rows are reduced four at a time; the backward pass reduces none.
        ...(pass === "forward" && { EACH4: tile.each / 4 }),
        STRIPS: tile.rows / tile.each,
        COLUMNS: tile.columns,
        SHARE: shareOf(tile, call.inputs[1].shape[3]),
      };
    },
  };
}
