import { compile } from "../core/compile.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import type { Tensor } from "../core/tensor.ts";
import type { HeldOut } from "./evaluate.ts";
import type { Evaluation, HostBatch } from "./recipe.ts";

/** What is measured of a batch. */
interface Measures<B, I> {
  /** The first is the criterion. */
  names: readonly string[];
  upload(batch: B): I;
  /** Their sums over the supervised places of a batch, f32 [names]. */
  sums(inputs: I): Tensor;
}

/**
 * Measures means over the supervised places of held-out rows, where a recipe has more to say than its loss. `tokens` is the
 * budget of `sample`, and `size` says for people how much is held out.
 */
export function evaluationOfMeans<B extends HostBatch, I extends object>(
  { names, upload, sums }: Measures<B, I>,
  held: HeldOut<B>,
  { batchSize, tokens, size }: { batchSize: number; tokens: number; size: string },
): Evaluation<B> {
  const budget = Math.min(held.rows, Math.ceil(tokens / held.seqLen));
  let inputs: string[] = [];
  const pass = compile((...columns: Tensor[]) =>
    noGrad(() => sums(Object.fromEntries(columns.map((column, i) => [inputs[i], column])) as I)),
  );
  const measure = async (rows: number, signal?: AbortSignal) => {
    const totals = new Float64Array(names.length);
    let supervised = 0;
    if (rows > 0)
      for (const batch of held.batches({ rows, batchSize })) {
        if (signal?.aborted) return null;
        const found = scope(() => {
          const uploaded = upload(batch);
          inputs = Object.keys(uploaded);
          return pass(...Object.values(uploaded));
        });
        for (const [i, value] of (await found.data()).entries()) totals[i] += value as number;
        dispose(found);
        supervised += batch.supervised;
      }
    return supervised === 0
      ? null
      : Object.fromEntries(names.map((name, i) => [name, totals[i] / supervised]));
  };
  return {
    criterion: names[0],
    samplesAll: budget === held.rows,
    size,
    sample: () => measure(budget),
    all: (_trainer, signal) => measure(held.rows, signal),
  };
}
