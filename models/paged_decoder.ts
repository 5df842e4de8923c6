import { type Compiled, compile } from "../core/compile.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import { feedTokens, greedyTokens, narrow, reshape, SETTINGS_WIDTH, sampleTokens } from "../kernels/index.ts";
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
  /** How its ids are drawn, as a row of `settingsRow`; absent: the highest logit. */
  draw?: readonly number[];
  /** Index of the item, in the step whose ids this step is given, that samples the last of `tokens`; what is there is ignored. */
  follows?: number;
}

/** What a step gives for the items without an adapter, or for those with one. */
interface StepPart {
  readonly items: readonly PagedItem[];
  /** A value or a row of them for each wanted row. */
  readonly tensor: Tensor;
}

/** The ids that a step samples, after the wanted rows of its items: on the device at once, on the host when read. */
export class SampledIds {
  readonly #items: readonly PagedItem[];
  readonly #parts: readonly StepPart[];
  /** Of each item, the part and its first row there. */
  readonly #places = new Map<PagedItem, { part: number; row: number }>();
  #reading: Promise<unknown> = Promise.resolve();

  constructor(items: readonly PagedItem[], parts: readonly StepPart[]) {
    this.#items = items;
    this.#parts = parts;
    parts.forEach((group, part) => {
      let row = 0;
      for (const item of group.items) {
        this.#places.set(item, { part, row });
        row += item.rows.length;
      }
    });
  }

  /** In the order of the items; -1 where logits are not finite (see `greedyTokens`). */
  async read(): Promise<Int32Array> {
    const reading = Promise.all(this.#parts.map(({ tensor }) => tensor.data()));
    this.#reading = reading.catch(() => {});
    const read = await reading;
    return Int32Array.from(
      this.#items.flatMap((item) => {
        const { part, row } = this.#places.get(item)!;
        return [...read[part].subarray(row, row + item.rows.length)];
      }),
    );
  }

  /** Where a later step finds the last id of an item. */
  placeOf(index: number): { tensor: Tensor; row: number } {
    const item = this.#items[index];
    const { part, row } = this.#places.get(item)!;
    return { tensor: this.#parts[part].tensor, row: row + item.rows.length - 1 };
  }

  /** Frees the memory when it was read, if it is being read; the steps that it feeds must have been given. */
  free(): void {
    void this.#reading.then(() => dispose(this.#parts.map(({ tensor }) => tensor)));
  }
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
  /** Where tokens, sequences, positions, slots, rows, draws, the adapters of tokens and of rows, and the table start in it. */
  starts: number[];
  /** That of the adapters for which it was traced. */
  version: number;
  /** Each may be given the ids that tokens refer to. */
  logits: Compiled<Tensor[], Tensor>;
  greedy: Compiled<Tensor[], Tensor>;
  drawn: Compiled<Tensor[], Tensor>;
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

  /**
   * For each item, the logits (f32, vocabSize values) after each of its wanted rows.
   * @param before the step that items follow.
   */
  async forward(items: readonly PagedItem[], before: SampledIds | null = null): Promise<Float32Array[][]> {
    const { vocabSize } = this;
    const parts = this.#run(items, before, ({ logits }) => logits);
    try {
      const read = await Promise.all(parts.map(({ tensor }) => tensor.data()));
      const rows = new Map<PagedItem, Float32Array[]>();
      parts.forEach((part, p) => {
        let row = 0;
        const next = () => (read[p] as Float32Array).subarray(row * vocabSize, ++row * vocabSize);
        for (const item of part.items) rows.set(item, item.rows.map(next));
      });
      return items.map((item) => rows.get(item)!);
    } finally {
      dispose(parts.map(({ tensor }) => tensor));
    }
  }

  /**
   * The ids after all wanted rows, which may feed the next step before they are read. The same step as `forward`, but only ids
   * leave the device. The caller frees them.
   * @param before the step that items follow.
   */
  sample(items: readonly PagedItem[], before: SampledIds | null = null): SampledIds {
    const draws = ({ draw }: PagedItem) => draw !== undefined;
    return new SampledIds(
      items,
      this.#run(items, before, ({ greedy, drawn }, group) => (group.some(draws) ? drawn : greedy)),
    );
  }

  /** For all wanted rows in order, the id that `sample` gives. */
  async greedy(items: readonly PagedItem[]): Promise<Int32Array> {
    const ids = this.sample(items);
    try {
      return await ids.read();
    } finally {
      ids.free();
    }
  }

  /**
   * Traces and compiles steps of so many tokens of one sequence, and those of one token that follows a sampled one, greedy and
   * (`draw`: a row of settings) drawn; their kernels have run then. No sequence may be in the cache yet.
   */
  rehearse(lengths: readonly number[], draw: readonly number[] | null): void {
    scope(() => {
      const ids = zeros([1], "i32");
      for (const length of lengths) {
        const blockTable = Int32Array.from({ length: this.sizes.maxBlocksPerSequence }, (_, i) => i);
        const item = { tokens: new Int32Array(length), start: 0, blockTable, rows: [length - 1] };
        const step = this.#prepare([draw && length === 1 ? { ...item, draw } : item], [null]);
        if (length > 1) step.greedy.rehearse();
        else for (const one of draw ? [step.greedy, step.drawn] : [step.greedy]) one.rehearse(ids);
      }
    });
  }

  /** Traces and compiles the greedy steps of items with an adapter of so many tokens, without running them. */
  async prepareAdapted(lengths: readonly number[]): Promise<void> {
    for (const length of lengths) await this.#stepFor(powerOfTwo(length), 1, true).greedy.prepare();
  }

  /**
   * One result for the items without an adapter and one for those with. Items without take the step that they take where there
   * are no others, so that they have its bits and its speed; all with one, whichever, take one step together.
   */
  #run(
    items: readonly PagedItem[],
    before: SampledIds | null,
    wanted: (step: Step, group: readonly PagedItem[]) => Compiled<Tensor[], Tensor>,
  ): StepPart[] {
    return [false, true].flatMap((adapted) => {
      const group = items.filter(({ adapter = null }) => (adapter !== null) === adapted);
      if (group.length === 0) return [];
      const places = group.map(({ follows }) => (follows === undefined ? null : before!.placeOf(follows)));
      const ids = places.find((place) => place !== null)?.tensor;
      const step = this.#prepare(
        group,
        places.map((place) => place?.row ?? null),
      );
      return [
        { items: group, tensor: scope(() => wanted(step, group)(...(ids === undefined ? [] : [ids]))) },
      ];
    });
  }

  /**
   * Fills the inputs of the step that fits the items, all with an adapter or all without, and returns it.
   * @param fed by item, the row of the given ids that is its last token, or null.
   */
  #prepare(items: readonly PagedItem[], fed: readonly (number | null)[]): Step {
    const { blockSize, maxBlocksPerSequence } = this.sizes;
    const wanted = items.reduce((sum, item) => sum + item.rows.length, 0);
    const total = items.reduce((sum, item) => sum + item.tokens.length, 0);
    const isAdapted = (items[0].adapter ?? null) !== null;
    const step = this.#stepFor(powerOfTwo(total), powerOfTwo(wanted), isAdapted);
    const [tokens, sequences, positions, slots, rows, draws, adapters, rowAdapters, table] = step.starts;
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
      const row = fed[sequence];
      if (row !== null) values[tokens + n - 1] = -1 - row;
      for (const row of item.rows) {
        if (item.draw !== undefined) values.set(item.draw, draws + (r - rows) * SETTINGS_WIDTH);
        values[r++] = n - item.tokens.length + row;
      }
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
      const draws = wanted * SETTINGS_WIDTH;
      const lengths = [room, room, room, room, wanted, draws, ...own, maxSequences * maxBlocksPerSequence];
      const starts: number[] = [];
      let end = 0;
      for (const length of lengths) {
        starts.push(end);
        end += Math.ceil(length / alignment) * alignment;
      }
      const input = persist(zeros([end], "i32"));
      const part = (i: number) => narrow(input, 0, starts[i], lengths[i]);
      const logits = (ids?: Tensor) => {
        // [room] each, but rows and rowAdapters [wanted]
        const [given, sequences, positions, slots, rows, , adapters, rowAdapters, table] = lengths.map(
          (_, i) => part(i),
        );
        const tokens = ids === undefined ? given : feedTokens(given, ids);
        const blockTable = reshape(table, [maxSequences, maxBlocksPerSequence]);
        const span = starts[3] - starts[2];
        const places = reshape(narrow(input, 0, starts[2], 2 * span), [2, span]); // positions, slots
        const context = { positions, sequences, slots, places, blockTable };
        const run = () => this.#model.logitsPaged(tokens, this.#cache, context, rows); // [wanted, vocab]
        if (!isAdapted) return noGrad(run);
        return noGrad(() => withAdapters(this.adapters.adapterOf(adapters, rowAdapters), run));
      };
      step = {
        ...{ input, starts, version: this.adapters.version, logits: compile(logits) },
        greedy: compile((ids?: Tensor) => greedyTokens(logits(ids))),
        drawn: compile((ids?: Tensor) =>
          sampleTokens(logits(ids), reshape(part(5), [wanted, SETTINGS_WIDTH])),
        ),
      };
      this.#steps.set(key, step);
    }
    if (isAdapted && step.version !== this.adapters.version) {
      for (const compiled of [step.logits, step.greedy, step.drawn]) compiled.discard();
      step.version = this.adapters.version;
    }
    return step;
  }

  /** Frees the cache and the memory of the steps. */
  close(): void {
    for (const { logits, greedy, drawn } of this.#steps.values())
      for (const step of [logits, greedy, drawn]) step.discard();
    this.adapters.close();
    dispose([this.#cache, [...this.#steps.values()].map(({ input }) => input)]);
    this.#steps.clear();
  }
}

function powerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(n, 1)));
}
