import { type Compiled, compile } from "../core/compile.ts";
import type { HostArray } from "../core/dtype.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import { greedyTokens, narrow, reshape } from "../kernels/index.ts";
import { type LayerCache, withAdapters } from "../nn/index.ts";
import { type AdapterLimits, AdapterStacks } from "./adapter_stacks.ts";
import type { CausalLM } from "./decoder.ts";

/** Consecutive tokens of one sequence to compute: a prompt, a chunk of one, one new token, or a recomputation. */
export interface PagedItem {
  /** The tokens at positions start … start + tokens.length - 1. */
  tokens: ArrayLike<number>;
  start: number;
  /** Blocks of the whole sequence so far, in order. */
  blockTable: ArrayLike<number>;
  /** The tokens, by index in `tokens`, after which logits are wanted. */
  rows: readonly number[];
  /** The name of its adapter in the decoder's `adapters`; absent or null: none. */
  adapter?: string | null;
}

export interface PagedSizes {
  numBlocks: number;
  blockSize: number;
  maxSequences: number;
  maxBlocksPerSequence: number;
}

/** Inputs start at multiples of this many elements in their common tensor: 256 bytes, where kernels can bind a view. */
const alignment = 64;

/** A compiled step for a number of tokens and of rows, with adapters or without. */
interface Step {
  /** All inputs of a step in one tensor, so that they take one upload. The block table comes last. */
  input: Tensor;
  /** Where tokens, sequences, positions, slots, rows, the adapters of tokens and of rows, and the table start in it. */
  starts: number[];
  logits: Compiled<[], Tensor>;
  greedy: Compiled<[], Tensor>;
}

/**
 * A model with a paged cache of keys and values. One call computes any mix of prefill and decode; the logits of a
 * sequence have the same bits whatever else is in the call and however its tokens were cut into calls.
 */
export class PagedDecoder {
  readonly sizes: PagedSizes;
  readonly vocabSize: number;
  readonly adapters: AdapterStacks;
  readonly #model: CausalLM;
  readonly #cache: LayerCache[];
  readonly #steps = new Map<string, Step>();

  constructor(model: CausalLM, sizes: PagedSizes, limits: Partial<AdapterLimits> = {}) {
    this.sizes = sizes;
    this.adapters = new AdapterStacks(model, limits);
    this.vocabSize = model.shape.vocab_size;
    this.#model = model;
    this.#cache = model.newCache(sizes.numBlocks, sizes.blockSize);
  }

  /** For each item, the logits (f32, vocabSize values) after each of its wanted rows. */
  async forward(items: readonly PagedItem[]): Promise<Float32Array[][]> {
    const { vocabSize } = this;
    const values = (await this.#read(items, "logits", vocabSize)) as Float32Array[];
    return items.map(({ rows }, i) =>
      rows.map((_, r) => values[i].subarray(r * vocabSize, (r + 1) * vocabSize)),
    );
  }

  /**
   * For all wanted rows in order, the id of the highest logit (the lowest of equal ones); -1 where the logits are not
   * finite (see `greedyTokens`). The same step as `forward`, but only ids are read back.
   */
  async greedy(items: readonly PagedItem[]): Promise<Int32Array> {
    const ids = await this.#read(items, "greedy", 1);
    return Int32Array.from(ids.flatMap((values) => [...values]));
  }

  /** Traces and compiles the steps of items with an adapter of so many tokens, of which one row is wanted, without running them. */
  async prepareAdapted(lengths: readonly number[]): Promise<void> {
    for (const length of lengths) {
      const step = this.#stepFor(powerOfTwo(length), 1, true);
      for (const compiled of [step.logits, step.greedy]) await compiled.prepare();
    }
  }

  /**
   * For each item, `width` values for each of its wanted rows. Items without an adapter take the step that they take where there
   * are no others, so that they have its bits and its speed; all with one, whichever, take one step together.
   */
  async #read(items: readonly PagedItem[], wanted: "logits" | "greedy", width: number): Promise<HostArray[]> {
    const groups = [false, true]
      .map((adapted) => items.filter(({ adapter = null }) => (adapter !== null) === adapted))
      .filter((group) => group.length > 0);
    const results = groups.map((group) => {
      const step = this.#prepare(group);
      return scope(() => step[wanted]());
    });
    try {
      const read = await Promise.all(results.map((result) => result.data()));
      const values = new Map<PagedItem, HostArray>();
      groups.forEach((group, g) => {
        let start = 0;
        for (const item of group) {
          const end = start + item.rows.length * width;
          values.set(item, read[g].subarray(start, end));
          start = end;
        }
      });
      return items.map((item) => values.get(item)!);
    } finally {
      dispose(results);
    }
  }

  /** Fills the inputs of the step that fits the items, all with an adapter or all without, and returns it. */
  #prepare(items: readonly PagedItem[]): Step {
    const { blockSize, maxBlocksPerSequence } = this.sizes;
    const wanted = items.reduce((sum, item) => sum + item.rows.length, 0);
    const total = items.reduce((sum, item) => sum + item.tokens.length, 0);
    const isAdapted = (items[0].adapter ?? null) !== null;
    const step = this.#stepFor(powerOfTwo(total), powerOfTwo(wanted), isAdapted);
    const [tokens, sequences, positions, slots, rows, adapters, rowAdapters, table] = step.starts;
    const values = new Int32Array(table + items.length * maxBlocksPerSequence);
    // Padding tokens write nowhere and read position 0 of the first sequence; their results are dropped.
    values.fill(-1, slots, rows);
    values.fill(-1, adapters, table);
    let n = 0;
    let r = rows;
    items.forEach((item, sequence) => {
      values.set(item.blockTable, table + sequence * maxBlocksPerSequence);
      if (isAdapted) {
        const slot = this.adapters.slotOf(item.adapter!);
        values.fill(slot, adapters + n, adapters + n + item.tokens.length);
        values.fill(slot, rowAdapters + r - rows, rowAdapters + r - rows + item.rows.length);
      }
      for (let i = 0; i < item.tokens.length; i++, n++) {
        const position = item.start + i;
        values[tokens + n] = item.tokens[i];
        values[positions + n] = position;
        values[sequences + n] = sequence;
        values[slots + n] =
          item.blockTable[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
      }
      for (const row of item.rows) values[r++] = n - item.tokens.length + row;
    });
    narrow(step.input, 0, 0, values.length).write(values);
    return step;
  }

  /** The step for powers of two tokens (`room`) and rows, so that few are ever traced. */
  #stepFor(room: number, wanted: number, isAdapted: boolean): Step {
    const key = `${room} ${wanted}${isAdapted ? " adapted" : ""}`;
    let step = this.#steps.get(key);
    if (!step) {
      const { maxSequences, maxBlocksPerSequence } = this.sizes;
      const own = isAdapted ? [room, wanted] : [0, 0];
      const lengths = [room, room, room, room, wanted, ...own, maxSequences * maxBlocksPerSequence];
      const starts: number[] = [];
      let end = 0;
      for (const length of lengths) {
        starts.push(end);
        end += Math.ceil(length / alignment) * alignment;
      }
      const input = persist(zeros([end], "i32"));
      const logits = () => {
        const parts = lengths.map((length, i) => narrow(input, 0, starts[i], length));
        // [room] each, but rows and rowAdapters [wanted]
        const [tokens, sequences, positions, slots, rows, adapters, rowAdapters, table] = parts;
        const blockTable = reshape(table, [maxSequences, maxBlocksPerSequence]);
        const span = starts[3] - starts[2];
        const places = reshape(narrow(input, 0, starts[2], 2 * span), [2, span]); // positions, slots
        const context = { positions, sequences, slots, places, blockTable };
        const run = () => this.#model.logitsPaged(tokens, this.#cache, context, rows); // [wanted, vocab]
        if (!isAdapted) return noGrad(run);
        return noGrad(() => withAdapters(this.adapters.adapterOf(adapters, rowAdapters), run));
      };
      step = { input, starts, logits: compile(logits), greedy: compile(() => greedyTokens(logits())) };
      this.#steps.set(key, step);
    }
    return step;
  }

  /** Frees the cache and the memory of the steps. */
  close(): void {
    for (const { logits, greedy } of this.#steps.values())
      for (const step of [logits, greedy]) step.discard();
    this.adapters.close();
    dispose([this.#cache, [...this.#steps.values()].map(({ input }) => input)]);
    this.#steps.clear();
  }
}

function powerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(n, 1)));
}
