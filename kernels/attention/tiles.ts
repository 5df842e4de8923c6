import type { Call, DeviceProfile } from "../../core/op.ts";
import type { AttentionAttrs, AttentionPass, Family } from "./plan.ts";

/** A workgroup of the kernels in register tiles; see tiles_layout.wgsl. */
interface Tile {
  /** Queries, or keys, that the workgroup owns. */
  rows: number;
  /** How many of them a thread has. */
  each: number;
  /** Threads that share a row; the workgroup walks four times as many keys, or queries, at a time. */
  columns: number;
}

/** The first that fits is taken: what a thread does with a load from workgroup memory grows with `each`. */
const tilesFor: Record<"forward" | "backward", readonly Tile[]> = {
  forward: [
    { rows: 64, each: 8, columns: 8 },
    { rows: 32, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 4 },
  ],
  // Twice the panels in the same memory.
  backward: [
    { rows: 32, each: 4, columns: 8 },
    { rows: 16, each: 4, columns: 8 },
    { rows: 16, each: 2, columns: 4 },
    { rows: 8, each: 1, columns: 4 },
  ],
};

/** For software adapters, where these kernels run in tests: small samples then have several blocks of everything. */
const smallTiles: readonly Tile[] = [{ rows: 8, each: 4, columns: 2 }];

/** Bytes of workgroup memory, as the sources add them up. */
function memoryOf({ rows, columns }: Tile, dim4: number, pass: AttentionPass): number {
  const line = dim4 | 1;
  const walk = 4 * columns;
  const weights = rows * (columns | 1);
  if (pass === "forward") return 16 * ((rows + walk) * line + weights) + 4 * rows * columns;
  const panels = 2 * (rows + walk) * line;
  return pass === "dq" ? 16 * (panels + weights) : 16 * (panels + 2 * weights) + 8 * walk;
}

function fits(tile: Tile, dim4: number, pass: AttentionPass, profile: DeviceProfile): boolean {
  const threads = (tile.rows / tile.each) * tile.columns;
  return threads <= profile.maxWorkgroupSize && memoryOf(tile, dim4, pass) <= profile.maxWorkgroupMemory;
}

/** The tile of a call's kernel, or undefined where none fits. */
function tileOf({ profile, inputs }: Call<AttentionAttrs>, pass: AttentionPass): Tile | undefined {
  const dim4 = inputs[1]!.shape[3]! / 4;
  const tiles = profile.class === "cpu" ? smallTiles : tilesFor[pass === "forward" ? "forward" : "backward"];
  return tiles.find((tile) => fits(tile, dim4, pass, profile));
}

/** Heads of up to 128 components, by four; on software adapters of up to 24, whose kernels compile in a second. */
export function suitsTiles(call: Call<AttentionAttrs>, pass: AttentionPass): boolean {
  const dim = call.inputs[1]!.shape[3]!;
  const most = call.profile.class === "gpu" ? 128 : 24;
  return dim > 0 && dim % 4 === 0 && dim <= most && tileOf(call, pass) !== undefined;
}

/** Products of register tiles, panels shared through workgroup memory. */
export const tiles: Family = {
  vector: true,
  tiled: true,
  rows: (call, pass) => tileOf(call, pass)!.rows,
  files: {
    forward: "attention/tiles.wgsl",
    dq: "attention/tiles_backward.wgsl",
    dkv: "attention/tiles_backward.wgsl",
  },
  defines: (call, pass) => {
    const { rows, each, columns } = tileOf(call, pass)!;
    return {
      KEYS_STAY: pass === "dkv",
      EACH: each,
      // Rows are reduced four at a time; the backward pass reduces none.
      ...(pass === "forward" && { EACH4: each / 4 }),
      STRIPS: rows / each,
      COLUMNS: columns,
      SHARE: Math.ceil(call.inputs[1]!.shape[3]! / 4 / columns),
    };
  },
};
