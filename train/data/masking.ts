import { type Batch, IGNORE } from "./packing.ts";
import { hash32 } from "./permutation.ts";

export interface MaskOptions {
  seed: number;
  /** The share of tokens that are to be found again. */
  share: number;
  maskId: number;
  vocabSize: number;
}

/** What a model sees where it is to find a token: in 80% of the cases the mask token, in 10% any token, else the token. */
export function shownToken(
  token: number,
  hash: number,
  { maskId, vocabSize }: Pick<MaskOptions, "maskId" | "vocabSize">,
): number {
  const chance = hash / 2 ** 32;
  if (chance < 0.8) return maskId;
  return chance < 0.9 ? hash32(hash) % vocabSize : token;
}

/**
 * Masked language modelling (Devlin et al. 2018) of packed rows: a share of the tokens that have a next one, which leaves
 * special tokens out, become targets, and the model sees `shownToken` in their places. Which ones depends on the seed, the
 * number of the row (the first of the batch is `firstRow`) and the place alone.
 */
export function maskTokens(batch: Batch, firstRow: number, seqLen: number, options: MaskOptions): Batch {
  const { seed, share } = options;
  const tokens = batch.tokens.slice();
  const targets = batch.targets.map((next, i) => {
    const key = [seed, firstRow + Math.floor(i / seqLen), i % seqLen];
    if (next === IGNORE || hash32(...key, 0) >= share * 2 ** 32) return IGNORE;
    tokens[i] = shownToken(batch.tokens[i], hash32(...key, 1), options);
    return batch.tokens[i];
  });
  return { ...batch, tokens, targets };
}
