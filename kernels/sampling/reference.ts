import { philox4x32, toUnit } from "../../core/random.ts";

/** How a row's token is chosen; the order of application is that of transformers' logits warpers. */
export interface SamplingSettings {
  /** Logits are divided by it; 0 takes the highest logit. */
  temperature: number;
  /** Keep logits at least as high as the k-th highest; 0 is off. */
  topK: number;
  /** Keep the most likely tokens whose predecessors' probability sums to less than this; 1 is off. */
  topP: number;
  /** Keep tokens at least this likely relative to the most likely one; 0 is off. */
  minP: number;
}

/** What fixes a draw besides the logits: the seed's two words, which of several choices, and the token's position. */
export interface SamplingKey {
  seed: readonly [number, number];
  choice: number;
  position: number;
}

/** The id of the highest logit, the lowest of equals. */
export function argmax(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

/** Whether logits have a softmax: no NaN or +infinity, and something above -infinity. */
export function isDistribution(logits: Float64Array): boolean {
  return !logits.some(Number.isNaN) && Number.isFinite(logits[argmax(logits)]);
}

/** Weights (not normalised; the most likely token has 1) after temperature above 0 and the filters. */
export function filteredWeights(logits: ArrayLike<number>, settings: SamplingSettings): Float64Array {
  const { temperature, topK, topP, minP } = settings;
  const top = logits[argmax(logits)];
  const weights = Float64Array.from(logits, (v) => Math.exp((v - top) / temperature));
  const sorted = Float64Array.from(logits).sort().reverse();
  let least = topK > 0 ? sorted[Math.min(topK, sorted.length) - 1] : Number.NEGATIVE_INFINITY;
  if (topP < 1) {
    let mass = 0;
    for (let i = 0; i < weights.length; i++) if (logits[i] >= least) mass += weights[i];
    const limit = Math.max(topP * mass, 1e-30);
    // Equal logits are kept or dropped together.
    let above = 0;
    let low = top;
    for (let i = 0; i < sorted.length && above < limit && sorted[i] >= least; ) {
      low = sorted[i];
      for (; i < sorted.length && sorted[i] === low; i++) above += Math.exp((low - top) / temperature);
    }
    least = Math.max(least, low);
  }
  return weights.map((w, i) => (logits[i] >= least && w >= minP ? w : 0));
}

/** The token that `sample_tokens` draws for one row. */
export function sampleToken(logits: ArrayLike<number>, settings: SamplingSettings, key: SamplingKey): number {
  if (settings.temperature <= 0) return argmax(logits);
  const weights = filteredWeights(logits, settings);
  const all = weights.reduce((sum, w) => sum + w, 0);
  const goal = toUnit(philox4x32(key.seed, [key.position, key.choice, 0, 0])[0]) * all;
  let sum = 0;
  const id = weights.findIndex((w) => {
    sum += w;
    return w > 0 && sum > goal;
  });
  return id >= 0 ? id : argmax(logits);
}
