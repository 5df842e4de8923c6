import { openDevice } from "../kernels/index.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";

/** Milliseconds of a greedy step of 1 and of 16 sequences. */
export interface DecodingTime {
  one: number;
  many: number;
}

const blockSize = 16;
/** Each of the two is measured for so many milliseconds, and for at least so many steps. */
const span = 300;
const least = 3;

/** Times decoding on this process's adapter. The shortest of several steps counts, since the machine may be busy. */
export async function timeDecoding(directory: string, dtype: "f32" | "f16"): Promise<DecodingTime> {
  await openDevice();
  const { model } = await loadModel(directory, dtype);
  const context = Math.min(128, model.shape.max_position_embeddings);
  const blocks = Math.ceil(context / blockSize);
  const sizes = { numBlocks: 16 * blocks, blockSize, maxSequences: 16, maxBlocksPerSequence: blocks };
  const decoder = new PagedDecoder(model, sizes);
  const best = async (streams: number) => {
    const items = Array.from({ length: streams }, (_, s) => ({
      tokens: [s % model.shape.vocab_size],
      start: context - 1,
      blockTable: Array.from({ length: blocks }, (_, b) => s * blocks + b),
      rows: [0],
    }));
    await decoder.greedy(items);
    let shortest = Number.POSITIVE_INFINITY;
    const end = performance.now() + span;
    for (let steps = 0; steps < least || performance.now() < end; steps++) {
      const start = performance.now();
      await decoder.greedy(items);
      shortest = Math.min(shortest, performance.now() - start);
    }
    return shortest;
  };
  return { one: await best(1), many: await best(16) };
}
