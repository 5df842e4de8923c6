import type { Batch } from "../train/data/index.ts";

/** Seeded values in [-1, 1) for a tensor of this shape, for the peers. */
export function values(shape: readonly number[], seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  });
}

/** Made-up token ids, and what follows each. */
export function madeUpTokens(count: number, vocabulary: number) {
  const tokens = Int32Array.from({ length: count }, (_, i) => (i * 7919) % vocabulary);
  return { tokens, targets: tokens.map((id) => (id * 31 + 7) % vocabulary) };
}

/** A batch of rows of `length` tokens, each row a document. */
export function batchOf({ tokens, targets }: Pick<Batch, "tokens" | "targets">, length: number): Batch {
  return {
    tokens,
    targets,
    positions: tokens.map((_, i) => i % length),
    segments: new Int32Array(tokens.length),
    bytes: tokens.length,
    supervised: targets.filter((target) => target !== -100).length,
  };
}
