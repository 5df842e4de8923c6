import { KilnError } from "../core/errors.ts";
import { BlockPool } from "./kv/blocks.ts";
import { BlockTable } from "./kv/table.ts";
import type { FinishReason, PlanItem, Request, StepPlan, StepResult } from "./types.ts";

export interface SchedulerConfig {
  /** Positions per block. */
  readonly blockSize: number;
  readonly blockCount: number;
  readonly maxModelLen: number;
  /** Sequences that run at once. */
  readonly maxSeqs: number;
  /** Tokens computed in one step. */
  readonly maxBatchedTokens: number;
  /** A waiting request overtakes one of the next better priority that came this many steps after it. */
  readonly agingSteps: number;
}

/** A request on its way through the engine. */
export interface Sequence {
  readonly request: Request;
  /** Prompt, then what was generated. */
  readonly tokens: number[];
  /** Positions whose K and V are in the cache. */
  computed: number;
  readonly table: BlockTable;
  /** True once any part of it was planned. */
  started: boolean;
  /** Place in the order of service: smaller first, then by `arrival`. */
  readonly rank: number;
  readonly arrival: number;
}

/** What a settled step did to one sequence. `index` points into the plan's items. */
export interface Settled {
  readonly index: number;
  readonly sequence: Sequence;
  readonly finish: FinishReason | null;
}

/**
 * Decides what each step computes. Plain data: knows tokens and block numbers, neither a device nor text.
 *
 * One order of service rules everything: rank = arrival step + priority * agingSteps, then arrival. Requests are admitted
 * from its head, blocks run out at its tail: the victim of a preemption is the last running sequence, which gives back
 * all blocks and is computed again later. So the first in order always advances, and nothing starves.
 *
 * A sequence enters only when all tokens it has fit the free blocks, hence a chunk of a prompt never waits for memory and
 * only a decode may preempt. Decodes go first in a step; what is left of the token budget is shared evenly among
 * prompts, so that neither a long prompt stalls the decodes nor a short prompt waits behind it.
 */
export class Scheduler {
  readonly config: SchedulerConfig;
  readonly pool: BlockPool;
  /** Both in order of service. */
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];
  readonly #byId = new Map<string, Sequence>();
  #steps = 0;
  #arrivals = 0;
  #preemptions = 0;
  #waitingTokens = 0;

  constructor(config: SchedulerConfig) {
    const needed = Math.ceil(config.maxModelLen / config.blockSize) + 1;
    if (config.blockCount < needed) {
      throw new KilnError(
        `the K/V cache has ${config.blockCount} blocks of ${config.blockSize} tokens, but one request of ${config.maxModelLen} tokens needs ${needed}: give it more memory or lower the model length`,
        { code: "kv_cache_too_small" },
      );
    }
    if (config.maxSeqs < 1 || config.maxBatchedTokens < config.maxSeqs) {
      throw new KilnError(
        `max batched tokens (${config.maxBatchedTokens}) must be at least the number of sequences (${config.maxSeqs}), and that at least 1`,
        { code: "bad_config" },
      );
    }
    this.config = config;
    this.pool = new BlockPool(config.blockCount);
  }

  get running(): number {
    return this.#running.length;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Tokens of the waiting sequences. */
  get waitingTokens(): number {
    return this.#waitingTokens;
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  get(id: string): Sequence | undefined {
    return this.#byId.get(id);
  }

  /** All sequences, in no order that matters. */
  sequences(): IterableIterator<Sequence> {
    return this.#byId.values();
  }

  add(request: Request): Sequence {
    if (this.#byId.has(request.id)) throw new Error(`request id ${request.id} is in use`);
    if (request.prompt.length === 0) throw new Error("a request needs at least one prompt token");
    if (request.prompt.length + request.maxTokens > this.config.maxModelLen) {
      throw new Error(`request ${request.id} cannot fit the model length ${this.config.maxModelLen}`);
    }
    const sequence: Sequence = {
      request,
      tokens: [...request.prompt],
      computed: 0,
      table: new BlockTable(this.pool, this.config.blockSize),
      started: false,
      rank: this.#steps + request.priority * this.config.agingSteps,
      arrival: this.#arrivals++,
    };
    this.#byId.set(request.id, sequence);
    this.#enqueue(sequence);
    return sequence;
  }

  /** Forgets a sequence and frees its blocks at once. False when it is not here (any more). */
  remove(id: string): boolean {
    const sequence = this.#byId.get(id);
    if (sequence === undefined) return false;
    this.#byId.delete(id);
    const at = this.#running.indexOf(sequence);
    if (at >= 0) this.#running.splice(at, 1);
    else {
      this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
      this.#waitingTokens -= sequence.tokens.length;
    }
    sequence.table.clear();
    return true;
  }

  /** Plans the next step; no items when nothing is left to do. The plan must be settled before the next is made. */
  schedule(): StepPlan {
    this.#steps++;
    const preempted = this.#makeRoom();
    this.#admit();
    return { items: this.#share(), preempted };
  }

  /** Takes in the results of `plan`. Sequences that left meanwhile, and items with an error, are skipped. */
  settle(plan: StepPlan, result: StepResult): Settled[] {
    const settled: Settled[] = [];
    plan.items.forEach(({ id, start, count }, index) => {
      const sequence = this.#byId.get(id);
      const outcome = result.items[index];
      if (sequence === undefined || outcome === undefined || outcome.error !== undefined) return;
      if (sequence.computed !== start) throw new Error(`step settled out of order for ${id}`);
      sequence.computed += count;
      if (outcome.sampled !== null) sequence.tokens.push(outcome.sampled.id);
      const finish = finishOf(sequence);
      if (finish !== null) this.remove(id);
      settled.push({ index, sequence, finish });
    });
    return settled;
  }

  /** Gives every running sequence slots for the tokens it has, taking them from the last in order where needed. */
  #makeRoom(): string[] {
    const preempted: string[] = [];
    for (let i = 0; i < this.#running.length; i++) {
      const sequence = this.#running[i]!;
      while (!sequence.table.grow(sequence.tokens.length)) {
        const victim = this.#running.pop()!;
        victim.table.clear();
        victim.computed = 0;
        this.#preemptions++;
        this.#enqueue(victim);
        preempted.push(victim.request.id);
        if (victim === sequence) break;
      }
    }
    return preempted;
  }

  #admit(): void {
    while (this.#waiting.length > 0 && this.#running.length < this.config.maxSeqs) {
      const sequence = this.#waiting[0]!;
      if (!sequence.table.grow(sequence.tokens.length)) return;
      this.#waiting.shift();
      this.#waitingTokens -= sequence.tokens.length;
      sequence.started = true;
      insert(this.#running, sequence);
    }
  }

  /** One token for each sequence, then an even share of the rest of the budget for those that have more to compute. */
  #share(): PlanItem[] {
    const counts = this.#running.map(() => 1);
    let budget = this.config.maxBatchedTokens - this.#running.length;
    const order = this.#running
      .map((sequence, at) => ({ at, more: sequence.tokens.length - sequence.computed - 1 }))
      .filter(({ more }) => more > 0)
      .sort((a, b) => a.more - b.more || a.at - b.at);
    order.forEach(({ at, more }, i) => {
      const count = Math.min(more, Math.ceil(budget / (order.length - i)));
      counts[at]! += count;
      budget -= count;
    });
    return this.#running.map(({ request, computed }, i) => ({
      id: request.id,
      start: computed,
      count: counts[i]!,
    }));
  }

  #enqueue(sequence: Sequence): void {
    insert(this.#waiting, sequence);
    this.#waitingTokens += sequence.tokens.length;
  }
}

/** Tokens generated so far. */
export function generated(sequence: Sequence): number {
  return sequence.tokens.length - sequence.request.prompt.length;
}

function finishOf(sequence: Sequence): FinishReason | null {
  const { request, tokens, computed } = sequence;
  const count = generated(sequence);
  if (count === 0) return request.maxTokens === 0 && computed === tokens.length ? "length" : null;
  if (request.stopTokenIds.has(tokens.at(-1)!) && count > request.minTokens) return "stop";
  return count >= request.maxTokens ? "length" : null;
}

function insert(list: Sequence[], sequence: Sequence): void {
  let at = list.length;
  while (at > 0 && before(sequence, list[at - 1]!)) at--;
  list.splice(at, 0, sequence);
}

function before(a: Sequence, b: Sequence): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.arrival < b.arrival);
}
