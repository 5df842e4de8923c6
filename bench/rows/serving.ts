import { BlockPool, BlockTable } from "../../serve/engine/blocks.ts";
import { Scheduler } from "../../serve/engine/scheduler.ts";
import type { ItemResult, Request } from "../../serve/engine/types.ts";
import { resolveSampling } from "../../serve/text/sampling.ts";
import type { Row } from "./row.ts";

/** What the server does on the processor while the device could compute. */

const blockSize = 16;
const vocabulary = 32_000;
/** Tokens of a prompt and of an answer. */
const [promptLength, answerLength] = [128, 512];

const COMPUTED: ItemResult = { sampled: null, scored: [] };
const SAMPLED: ItemResult = { ...COMPUTED, sampled: { id: 1, logprob: null, top: [] } };

/** A greedy request of the benchmarks. No two share a prefix: every answer computes its prompt. */
export function plainRequest(
  id: string,
  prompt: readonly number[],
  maxTokens: number,
  adapter: string | null = null,
): Request {
  return {
    ...{ id, client: "bench", prompt, maxTokens, minTokens: maxTokens, stopTokenIds: new Set() },
    sampling: { ...resolveSampling({ temperature: 0 }, 1, () => [0, 0]), choice: 0 },
    ...{ priority: 0, topLogprobs: null, scorePrompt: false, constraint: null, adapter, cacheSalt: id },
  };
}

/**
 * One step of `sequences` that decode: the plan, and taking in what was sampled. Whoever is done makes way for another. The
 * bytes are those of the step's arrays: five numbers a sequence, and its blocks.
 */
export function schedulerRow(sequences: number): Row {
  const length = promptLength + answerLength;
  return {
    name: `serve scheduler, ${sequences} sequences`,
    flops: sequences,
    bytes: 4 * sequences * (5 + (promptLength + answerLength / 2) / blockSize),
    unit: "GB/s",
    tokens: sequences,
    prepare: () => {
      const scheduler = new Scheduler({
        ...{ blockSize, blockCount: (sequences + 1) * Math.ceil(length / blockSize) },
        ...{ maxModelLen: length, maxSeqs: sequences, maxBatchedTokens: 2048, agingSteps: 256 },
      });
      // Made before: whoever sends a prompt has it. Requests do not share what is equal, by their salts.
      const prompts = Array.from({ length: sequences }, (_, n) =>
        Array.from({ length: promptLength }, (_, i) => (n * 31 + i * 7919) % vocabulary),
      );
      let added = 0;
      const add = () => {
        const prompt = prompts[added % sequences];
        // Answers of different lengths: they do not all end in one step.
        scheduler.add(plainRequest(`${added++}`, prompt, answerLength - ((added * 37) % 256)));
      };
      for (let i = 0; i < sequences; i++) add();
      return {
        run: async (times) => {
          for (let i = 0; i < times; i++) {
            const plan = scheduler.schedule();
            const results = plan.items.map(({ samples }) => (samples ? SAMPLED : COMPUTED));
            for (const { finish } of scheduler.advance(plan, results)) if (finish !== null) add();
          }
        },
        dispose: () => {},
      };
    },
  };
}

/** Finding the blocks of a prompt of 2,048 tokens that the cache holds. The bytes are those of its tokens, read twice. */
export function prefixRow(): Row {
  const length = 2048;
  return {
    name: `serve prefix, ${length} tokens`,
    flops: length,
    bytes: 2 * 4 * length,
    unit: "GB/s",
    tokens: length,
    prepare: () => {
      const pool = new BlockPool(64 * (length / blockSize), blockSize);
      const prompts = Array.from({ length: 60 }, (_, n) =>
        Array.from({ length: length + 1 }, (_, i) => (n * 31 + i * 7919) % vocabulary),
      );
      for (const prompt of prompts) {
        const table = new BlockTable(pool, "");
        table.grow(length);
        table.publish(prompt, length);
        table.clear();
      }
      let next = 0;
      return {
        run: async (times) => {
          for (let i = 0; i < times; i++) {
            const table = new BlockTable(pool, "");
            if (table.adopt(prompts[next++ % prompts.length]) !== length)
              throw new Error("a prefix is missing");
            table.clear();
          }
        },
        dispose: () => {},
      };
    },
  };
}
