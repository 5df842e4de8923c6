import { type Batch, IGNORE } from "./packing.ts";
import { hash32 } from "./permutation.ts";

export interface MaskOptions {
  seed: number;
  /** The share of tokens that are to be found again. */
  share: number;
  maskId: number;
  vocabSize: number;
}

/**
 * Masked language modelling (Devlin et al. 2018) of packed rows: a share of the tokens that have a next one, which leaves
 * special tokens out, become targets; of these 80% are replaced by the mask token and 10% by any token. Which ones
 * depends on the seed, the number of the row (the first of the batch is `firstRow`) and the place alone.
 */
export function maskTokens(batch: Batch, firstRow: number, seqLen: number, options: MaskOptions): Batch {
  const { seed, share, maskId, vocabSize } = options;
  const tokens = batch.tokens.slice();
  const targets = batch.targets.map((next, i) => {
    const key = [seed, firstRow + Math.floor(i / seqLen), i % seqLen];
    if (next === IGNORE || hash32(...key, 0) >= share * 2 ** 32) return IGNORE;
    const kind = hash32(...key, 1) / 2 ** 32;
    if (kind < 0.8) tokens[i] = maskId;
    else if (kind < 0.9) tokens[i] = hash32(...key, 2) % vocabSize;
    return batch.tokens[i];
  });
  return { ...batch, tokens, targets };
}
