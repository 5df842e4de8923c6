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
  const [cacheBlocks, blockSize, kvHeads] = keyCache!.shape as [number, number, number];
  const blocks = table!.shape[1];
  for (let row = 0; row < tokens * heads; row++) {
    const token = Math.floor(row / heads);
    const sequence = sequences!.data[token];
    const position = positions!.data[token];
    if (sequence < 0 || position < 0) continue;
    const own = table!.data.subarray(sequence * blocks, (sequence + 1) * blocks);
    const read = own.subarray(0, Math.floor(position / blockSize) + 1);
    if (
      sequence >= table!.shape[0] ||
      position >= blocks * blockSize ||
      read.some((block) => block < 0 || block >= cacheBlocks)
    ) {
      out!.data.fill(Number.NaN, row * dim, (row + 1) * dim);
      continue;
    }
    const kv = Math.floor(((row % heads) * kvHeads) / heads);
    const places = Array.from({ length: position + 1 }, (_, j) => {
      const block = own[Math.floor(j / blockSize)];
      return ((block * blockSize + (j % blockSize)) * kvHeads + kv) * dim;
    });
    const scores = places.map((place) => {
      let score = 0;
      for (let c = 0; c < dim; c++) score += query!.data[row * dim + c] * keyCache!.data[place + c];
      return score * scale;
    });
    const top = scores.reduce((m, s) => Math.max(m, s), Number.NEGATIVE_INFINITY);
    // Nothing to weigh: zeros, as attention says.
    if (top < -1e29) continue;
    const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0);
    places.forEach((place, j) => {
      const weight = Math.exp(scores[j] - top) / total;
      for (let c = 0; c < dim; c++) out!.data[row * dim + c] += weight * valueCache!.data[place + c];
    });
  }
}

/** Copies rows to their slots. */
export function writeReference(inputs: readonly RefTensor[]): void {
  const [keyCache, valueCache, key, value, slots] = inputs as RefTensor[] & { length: 5 };
  const width = key!.shape[1] * key!.shape[2];
  slots!.data.forEach((slot, token) => {
    if (slot < 0) return;
    for (let c = 0; c < width; c++) {
      keyCache!.data[slot * width + c] = key!.data[token * width + c];
      valueCache!.data[slot * width + c] = value!.data[token * width + c];
    }
  });
}
