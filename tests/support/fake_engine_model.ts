import { setImmediate as nextTurn } from "node:timers/promises";
import { sampleRow } from "../../serve/engine/sampler.ts";
import type { ItemResult, RunItem, Runner } from "../../serve/engine/types.ts";

const SIZES = { vocabSize: 304, maxModelLen: 20_000, blockSize: 16, blockCount: 4096 };

/** Prompt tokens that the tokenizer does not have and the model obeys: end the process, never end a step (waiting, or in a loop), lose the device. */
export const TRICKS = { die: 300, hang: 301, block: 302, lose: 303 } as const;

export type Trick = keyof typeof TRICKS;

/** Paths of models that cannot be loaded; `diesAgain` can once. */
export const PATHS = { dies: "dies", refused: "refused", diesAgain: "dies again" };

/** Set in the environment when `diesAgain` cannot be loaded any more. */
export const AGAIN = "KILN_TEST_DIES_AGAIN";

const isTrick = (id: number) => Object.values<number>(TRICKS).includes(id);

/** A model whose next token depends on the last one and its position. */
export function trickRunner(tricks: Partial<Record<Trick, () => unknown>> = {}): Runner {
  const byToken = new Map(
    Object.entries(tricks).map(([name, trick]) => [TRICKS[name as Trick] as number, trick]),
  );
  return {
    ...SIZES,
    run: async (items) => {
      for (const { tokens } of items) for (const token of tokens) await byToken.get(token)?.();
      // A step is no microtask: others have their turn.
      await nextTurn();
      return items.map(compute);
    },
  };
}

function compute({ tokens, start, sample }: RunItem): ItemResult {
  if (sample === null) return { sampled: null, scored: [] };
  const position = start + tokens.length;
  const logits = Float32Array.from({ length: SIZES.vocabSize }, (_, id) =>
    id === 0 || isTrick(id) ? -50 : 3 * Math.sin((tokens.at(-1)! + 1) * position * (id + 1)),
  );
  return { sampled: sampleRow(logits, sample), scored: [] };
}
