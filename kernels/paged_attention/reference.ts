import type { RefTensor } from "../../core/op.ts";
import type { PagedAttrs } from "./op.ts";

/** Each token's softmax over its own sequence, gathered through the block table. */
export function pagedReference(
  inputs: readonly RefTensor[],
  { scale }: PagedAttrs,
  [out]: readonly RefTensor[],
): void {
  const [query, keyCache, valueCache, table, sequences, positions] = inputs as RefTensor[] & { length: 6 };
  const [tokens, heads, dim] = query!.shape as [number, number, number];
  const [, blockSize, kvHeads] = keyCache!.shape as [number, number, number];
  const blocks = table!.shape[1]!;
  for (let row = 0; row < tokens * heads; row++) {
    const token = Math.floor(row / heads);
    const sequence = sequences!.data[token]!;
    if (sequence < 0) continue;
    const kv = Math.floor(((row % heads) * kvHeads) / heads);
    const places = Array.from(
      { length: Math.min(positions!.data[token]! + 1, blocks * blockSize) },
      (_, j) => {
        const block = table!.data[sequence * blocks + Math.floor(j / blockSize)]!;
        return ((block * blockSize + (j % blockSize)) * kvHeads + kv) * dim;
      },
    );
    const scores = places.map((place) => {
      let score = 0;
      for (let c = 0; c < dim; c++) score += query!.data[row * dim + c]! * keyCache!.data[place + c]!;
      return score * scale;
    });
    const top = scores.reduce((m, s) => Math.max(m, s), Number.NEGATIVE_INFINITY);
    const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0);
    places.forEach((place, j) => {
      const weight = Math.exp(scores[j]! - top) / total;
      for (let c = 0; c < dim; c++) out!.data[row * dim + c]! += weight * valueCache!.data[place + c]!;
    });
  }
}

/** Copies rows to their slots. */
export function writeReference(inputs: readonly RefTensor[]): void {
  const [keyCache, valueCache, key, value, slots] = inputs as RefTensor[] & { length: 5 };
  const width = key!.shape[1]! * key!.shape[2]!;
  slots!.data.forEach((slot, token) => {
    if (slot < 0) return;
    for (let c = 0; c < width; c++) {
      keyCache!.data[slot * width + c] = key!.data[token * width + c]!;
      valueCache!.data[slot * width + c] = value!.data[token * width + c]!;
    }
  });
}
