import { compile } from "../core/compile.ts";
import { dispose, scope } from "../core/device.ts";
import type { HostArray } from "../core/dtype.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { greedyTokens } from "../kernels/index.ts";
import type { LayerCache } from "../nn/index.ts";
import type { CausalLM } from "./causal_lm.ts";

/** Some consecutive tokens of one sequence to be computed: a prompt, a chunk of one, one new token, or a recompute. */
export interface PagedItem {
  /** The tokens at positions start … start + tokens.length - 1. */
  tokens: ArrayLike<number>;
  start: number;
  /** Blocks of the whole sequence so far, in order. */
  blockTable: ArrayLike<number>;
  /** Which of these tokens (by index in `tokens`) logits are wanted after. */
  rows: readonly number[];
}

export interface PagedSizes {
  numBlocks: number;
  blockSize: number;
  maxSequences: number;
  maxBlocksPerSequence: number;
}

/**
 * A model with a paged cache of keys and values. One call computes any mix of prefill and decode; the logits of a
 * sequence have the same bits whatever else is in the call and however its tokens were cut into calls.
 */
export class PagedDecoder {
  readonly sizes: PagedSizes;
  readonly vocabSize: number;
  private readonly cache: LayerCache[];
  private readonly step: (...args: Tensor[]) => { logits: Tensor; greedy: Tensor };

  constructor(model: CausalLM, sizes: PagedSizes) {
    this.sizes = sizes;
    this.vocabSize = model.shape.vocab_size;
    this.cache = model.newCache(sizes.numBlocks, sizes.blockSize);
    this.step = compile((...args: Tensor[]) => {
      const [tokens, positions, sequences, slots, blockTable, rows] = args as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      return noGrad(() => {
        const context = { positions, sequences, slots, blockTable };
        const logits = model.logitsPaged(tokens, this.cache, context, rows);
        return { logits, greedy: greedyTokens(logits) };
      });
    });
  }

  /** For each item, the logits (f32, vocabSize values) after each of its wanted rows. */
  async forward(items: readonly PagedItem[]): Promise<Float32Array[][]> {
    const values = (await this.read(items, "logits")) as Float32Array;
    let r = 0;
    const next = () => values.subarray(r * this.vocabSize, ++r * this.vocabSize);
    return items.map((item) => item.rows.map(next));
  }

  /**
   * For all wanted rows in order, the id of the highest logit, the lowest of equals; -1 where the logits are no
   * distribution (see `greedyTokens`). The same step as `forward`, of which only the ids come back.
   */
  async greedy(items: readonly PagedItem[]): Promise<Int32Array> {
    return (await this.read(items, "greedy")) as Int32Array;
  }

  private async read(items: readonly PagedItem[], wanted: "logits" | "greedy"): Promise<HostArray> {
    const results = scope(() => this.step(...this.arrange(items)));
    try {
      return await results[wanted].data();
    } finally {
      dispose(results);
    }
  }

  /** The batch as device arrays, padded to a power of two so that few sizes are ever planned. */
  private arrange(items: readonly PagedItem[]): Tensor[] {
    const { blockSize, maxSequences, maxBlocksPerSequence } = this.sizes;
    const wanted = items.reduce((sum, item) => sum + item.rows.length, 0);
    const total = items.reduce((sum, item) => sum + item.tokens.length, 0);
    const room = powerOfTwo(total);
    const columns = {
      token: new Int32Array(room),
      position: new Int32Array(room),
      sequence: new Int32Array(room),
    };
    // Padding tokens write nowhere and read position 0 of the first sequence; their results are dropped.
    const slots = new Int32Array(room).fill(-1);
    const table = new Int32Array(maxSequences * maxBlocksPerSequence);
    const rows = new Int32Array(powerOfTwo(wanted));
    let n = 0;
    let r = 0;
    items.forEach((item, sequence) => {
      table.set(item.blockTable, sequence * maxBlocksPerSequence);
      for (let i = 0; i < item.tokens.length; i++, n++) {
        const position = item.start + i;
        columns.token[n] = item.tokens[i]!;
        columns.position[n] = position;
        columns.sequence[n] = sequence;
        slots[n] = item.blockTable[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
      }
      for (const row of item.rows) rows[r++] = n - item.tokens.length + row;
    });
    const i32 = (values: Int32Array, shape = [values.length]) => tensor(values, shape, "i32");
    const { token, position, sequence } = columns;
    return [
      i32(token),
      i32(position),
      i32(sequence),
      i32(slots),
      i32(table, [maxSequences, maxBlocksPerSequence]),
      i32(rows),
    ];
  }

  /** Frees the cache. */
  close(): void {
    dispose(this.cache);
  }
}

function powerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(n, 1)));
}
