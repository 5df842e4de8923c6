import type { Sample, SampleInput } from "../../core/op.ts";
import type { PagedAttrs } from "./op.ts";

const ints = (shape: number[], values: number[]): SampleInput => ({ shape, dtype: "i32", values });

/** Sequences whose blocks are scattered in the cache, and tokens that attend to them: token i is at `positions[i]` of `sequences[i]`. */
function sample(
  name: string,
  [heads, kvHeads, dim, blockSize, maxBlocks]: readonly [number, number, number, number, number],
  sequences: number[],
  positions: number[],
): Sample<PagedAttrs> {
  const rows = 3;
  const blocks = rows * maxBlocks + 1;
  const cache: SampleInput = { shape: [blocks, blockSize, kvHeads, dim] };
  // 7 is coprime to every block count used here: a permutation that never touches block 0.
  const table = Array.from({ length: rows * maxBlocks }, (_, i) => 1 + ((i * 7) % (blocks - 1)));
  const tokens = sequences.length;
  return {
    name,
    inputs: [
      { shape: [tokens, heads, dim] },
      cache,
      cache,
      ints([rows, maxBlocks], table),
      ints([tokens], sequences),
      ints([tokens], positions),
    ],
    attrs: { scale: 1 / Math.sqrt(dim) },
    atol: 2e-5,
    rtol: 1e-4,
    gradcheck: false,
  };
}

/** The sample with entries of its block table replaced: by blocks that do not exist. */
function spoilt(of: Sample<PagedAttrs>, entries: Record<number, number>): Sample<PagedAttrs> {
  const inputs = of.inputs.map((input, i) =>
    i === 3 ? { ...input, values: input.values!.map((block, at) => entries[at] ?? block) } : input,
  );
  return { ...of, inputs };
}

/** Tokens of sequences, positions and blocks that do not exist, beside others. */
function missing(): Sample<PagedAttrs>[] {
  const [short, long] = [[2, 1, 8, 4, 4] as const, [2, 1, 5, 16, 40] as const];
  return [
    sample("no such sequence", short, [3, 1], [2, 9]),
    sample("no such position", short, [0, 1], [16, 15]),
    spoilt(sample("no such block", short, [0, 0, 1], [3, 4, 9]), { 1: 13, 4: -1 }),
    spoilt(sample("no such block, several chunks", long, [0, 0, 1], [600, 300, 9]), { 30: 121, 40: -7 }),
  ];
}

export function pagedSamples(): Sample<PagedAttrs>[] {
  return [
    sample("decodes and a prefill", [4, 4, 8, 4, 4], [0, 1, 2, 2, 2, 0], [0, 15, 3, 4, 5, 9]),
    sample("grouped heads", [6, 2, 16, 16, 2], [1, 0], [31, 16]),
    sample("head dimension 5", [2, 1, 5, 3, 5], [1, 2], [14, 0]),
    sample("padding", [2, 2, 8, 4, 4], [-1, 1, -1], [0, 6, 3]),
    sample("several chunks", [2, 1, 8, 16, 40], [0, 1, 2, 0, -1, 1], [639, 255, 256, 3, 0, 511]),
    ...missing(),
    sample("head dimension 64", [2, 2, 64, 16, 20], [2], [300]),
    sample("no tokens", [2, 2, 8, 4, 4], [], []),
  ];
}

export function writeSamples(): Sample<Record<never, never>>[] {
  const write = (name: string, slots: number[]): Sample<Record<never, never>> => ({
    name,
    inputs: [
      { shape: [3, 4, 2, 5] },
      { shape: [3, 4, 2, 5] },
      { shape: [slots.length, 2, 5] },
      { shape: [slots.length, 2, 5] },
      ints([slots.length], slots),
    ],
    attrs: {},
    gradcheck: false,
  });
  return [write("scattered", [11, 0, -1, 6]), write("one", [5]), write("none", [])];
}
