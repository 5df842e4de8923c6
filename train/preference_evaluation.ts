import { compile } from "../core/compile.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import type { Tensor } from "../core/tensor.ts";
import type { TokenBatch } from "../models/model.ts";
import { type Batch, type Pair, pairBatch } from "./data/index.ts";
import { type PreferenceObjective, pairMetrics } from "./losses/preference.ts";
import type { Evaluation } from "./recipe.ts";
import { uploadTokens } from "./trainer.ts";

/** Measures what `pairMetrics` names: on pairs spread evenly over all, within a budget of tokens, or on all. */
export function evaluationOfPairs(
  objective: PreferenceObjective,
  held: readonly Pair[],
  { seqLen, batchSize, tokens }: { seqLen: number; batchSize: number; tokens: number },
): Evaluation<Batch> {
  const budget = Math.min(held.length, Math.ceil(tokens / (2 * seqLen)));
  const names = ["tokens", "targets", "positions", "segments"];
  const pass = compile((...columns: Tensor[]) => {
    const batch = Object.fromEntries(columns.map((column, i) => [names[i], column]));
    return noGrad(() => objective.metrics(batch as unknown as TokenBatch));
  });
  const measure = async (pairs: number, signal?: AbortSignal) => {
    const sums = new Float64Array(pairMetrics.length);
    for (let first = 0; first < pairs; first += batchSize) {
      if (signal?.aborted) return null;
      const chosen = Array.from({ length: batchSize }, (_, i) =>
        first + i < pairs ? held[Math.floor(((first + i + 0.5) * held.length) / pairs)] : null,
      );
      const found = scope(() => pass(...Object.values(uploadTokens(pairBatch(chosen, seqLen), seqLen))));
      for (const [i, value] of (await found.data()).entries()) sums[i] += value as number;
      dispose(found);
    }
    return pairs === 0 ? null : Object.fromEntries(pairMetrics.map((name, i) => [name, sums[i] / pairs]));
  };
  return {
    criterion: "validation_loss",
    samplesAll: budget === held.length,
    size: `${held.length} held-out pairs`,
    sample: () => measure(budget),
    all: (_trainer, signal) => measure(held.length, signal),
  };
}
