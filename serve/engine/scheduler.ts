import { KilnError } from "../../core/errors.ts";
import { BlockPool, BlockTable } from "./blocks.ts";
import { ClientQueues, type Queue } from "./queues.ts";
import {
  apartOf,
  type Client,
  endOf,
  finishOf,
  generated,
  insert,
  isExempt,
  leftOf,
  plan,
  type Sequence,
} from "./sequence.ts";
import type { FinishReason, ItemResult, Request, StepPlan } from "./types.ts";

export interface SchedulerConfig {
  /** Positions per block. */
  readonly blockSize: number;
  readonly blockCount: number;
  readonly maxModelLen: number;
  /** Sequences that run at once. */
  readonly maxSeqs: number;
  /** Tokens computed in one step. */
  readonly maxBatchedTokens: number;
  /** A waiting request overtakes those of the next better priority that arrive this many steps after it. */
  readonly agingSteps: number;
}

/** What a step did to one sequence. `index` points into the plan's items. */
export interface Advanced {
  readonly index: number;
  readonly sequence: Sequence;
  readonly finish: FinishReason | null;
}

/**
 * Decides what each step computes. It is plain data: it knows tokens and block numbers, but neither a device nor text.
 *
 * Clients share evenly. The next sequence to be admitted belongs to the client that runs fewest, and among equals to the
 * one that has waited longest; if no place is free, a client that runs at least two more gives one up. Within a client,
 * sequences come in order of rank = arrival step + priority * agingSteps. Between clients a better level comes first: the
 * priority, which improves by one per agingSteps of waiting until it equals the best there is. So every sequence is next
 * at some time.
 *
 * When blocks run out, the victim of the preemption is the last sequence in order (of the worst level, not yet preempted
 * MAX_PREEMPTIONS times, of the client that runs most): it gives back all blocks and is computed again later. The first in
 * order always advances.
 *
 * A sequence begins after the longest prefix that some block still holds. While another of the same client computes a longer
 * one, it waits for that: the choices of one prompt compute it once.
 *
 * A sequence is admitted only when all tokens it has fit the free blocks, so a chunk of a prompt never waits for memory and
 * only a decode may preempt. Decodes go first in a step; the rest of the token budget is shared evenly among clients, and
 * each share among the client's prompts: a long prompt stalls no decode, and a short prompt does not wait behind it.
 */
export class Scheduler {
  readonly config: SchedulerConfig;
  readonly pool: BlockPool;
  /** By rank. */
  readonly #running: Sequence[] = [];
  readonly #queues = new ClientQueues();
  readonly #byId = new Map<string, Sequence>();
  #steps = 0;
  #arrivals = 0;
  #admissions = 0;
  #preemptions = 0;

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
    this.pool = new BlockPool(config.blockCount, config.blockSize);
  }

  get running(): number {
    return this.#running.length;
  }

  get waiting(): number {
    return this.#byId.size - this.#running.length;
  }

  /** Those of the waiting that wait for another to compute their prefix. */
  get deferred(): number {
    return this.#queues.deferred;
  }

  /** What waits, by client. */
  get queue(): Queue {
    return this.#queues.sizes();
  }

  get preemptions(): number {
    return this.#preemptions;
  }

  get(id: string): Sequence | undefined {
    return this.#byId.get(id);
  }

  add(request: Request): Sequence {
    if (this.#byId.has(request.id)) throw new Error(`request id ${request.id} is in use`);
    if (request.prompt.length === 0) throw new Error("a request needs at least one prompt token");
    if (request.prompt.length + request.maxTokens > this.config.maxModelLen) {
      throw new Error(`request ${request.id} cannot fit the model length ${this.config.maxModelLen}`);
    }
    const client = this.#queues.enter(request.client, this.#admissions);
    const sequence: Sequence = {
      request,
      client,
      tokens: [...request.prompt],
      computed: 0,
      planned: 0,
      coming: 0,
      table: new BlockTable(this.pool, apartOf(request)),
      most: request.prompt.length + Math.max(0, request.maxTokens - 1),
      running: false,
      cachedTokens: null,
      preemptions: 0,
      following: null,
      rank: this.#steps + request.priority * this.config.agingSteps,
      arrival: this.#arrivals++,
    };
    this.#byId.set(request.id, sequence);
    this.#queues.enqueue(sequence);
    return sequence;
  }

  /** Forgets a sequence and frees its blocks at once. False when it is not here (any more). */
  remove(id: string): boolean {
    const sequence = this.#byId.get(id);
    if (sequence === undefined) return false;
    this.#byId.delete(id);
    if (sequence.running) this.#stop(sequence);
    else this.#queues.unqueue(sequence);
    this.#queues.leave(sequence);
    sequence.table.clear();
    return true;
  }

  /**
   * Plans the next step; no items when nothing can be done. The results of the plan before must have been taken in, or are
   * `ahead`: then the tokens that it samples count as if they were known, and whatever would preempt somebody waits.
   */
  schedule(ahead = false): StepPlan {
    this.#steps++;
    const preempted: string[] = [];
    if (!this.#makeRoom(ahead, preempted)) return { items: [], sequences: [], preempted };
    this.#admit(ahead, preempted);
    return { ...this.#share(), preempted };
  }

  /** Takes in the results of `plan`, in order. Sequences that left meanwhile, and items with an error, are skipped. */
  advance(plan: StepPlan, results: readonly ItemResult[]): Advanced[] {
    const advanced: Advanced[] = [];
    plan.items.forEach(({ id, start, count }, index) => {
      const sequence = plan.sequences[index];
      const outcome = results[index];
      if (!sequence.running || outcome === undefined || outcome.error !== undefined) return;
      if (sequence.computed !== start) throw new Error(`results of ${id} out of order`);
      sequence.computed += count;
      sequence.table.publish(sequence.tokens, sequence.computed);
      if (outcome.sampled !== null) {
        sequence.tokens.push(outcome.sampled.id);
        sequence.coming--;
      }
      const finish = finishOf(sequence);
      if (finish !== null) this.remove(id);
      advanced.push({ index, sequence, finish });
    });
    return advanced;
  }

  /**
   * Gives every running sequence room for what it has to compute, preempting the last in order where blocks run out. False,
   * with less done, where that cannot be as results are `ahead`.
   */
  #makeRoom(ahead: boolean, preempted: string[]): boolean {
    const lacking = this.#running.filter((sequence) => !sequence.table.grow(endOf(sequence)));
    if (lacking.length > 0 && ahead) return false;
    for (const sequence of lacking) {
      while (sequence.running && !sequence.table.grow(endOf(sequence))) {
        const best = this.#bestPriority();
        const later = (a: Sequence, b: Sequence) =>
          this.#level(a, best) - this.#level(b, best) ||
          Number(isExempt(b)) - Number(isExempt(a)) ||
          a.client.running - b.client.running;
        // Among equals, the last by rank.
        this.#preempt(
          this.#running.reduce((a, b) => (later(a, b) > 0 ? a : b)),
          preempted,
        );
      }
    }
    return true;
  }

  #preempt(victim: Sequence, preempted: string[]): void {
    this.#stop(victim);
    victim.table.clear();
    victim.computed = 0;
    victim.preemptions++;
    this.#preemptions++;
    this.#queues.enqueue(victim);
    preempted.push(victim.request.id);
  }

  #admit(ahead: boolean, preempted: string[]): void {
    if (this.waiting === 0) return;
    const best = this.#bestPriority();
    for (let next = this.#next(best); next !== null; next = this.#next(best)) {
      if (!this.#mayRun(next)) return;
      const { client, table, tokens } = next;
      const cached = this.#adopt(next);
      const victims = next.following === null ? this.#displaced(next, best) : [];
      const mustWait = victims === null || (ahead && victims.length > 0);
      if (next.following !== null || mustWait) {
        table.clear();
        if (mustWait) return;
        continue;
      }
      for (const victim of victims) this.#preempt(victim, preempted);
      this.#queues.unqueue(next);
      table.grow(tokens.length);
      next.computed = cached;
      next.planned = cached;
      next.cachedTokens ??= cached;
      next.running = true;
      client.running++;
      client.turn = this.#admissions++;
      insert(this.#running, next);
    }
  }

  /** Whether it is worth looking up what `next` needs: a place and a block are free, or could be taken from somebody. */
  #mayRun({ client }: Sequence): boolean {
    if (this.#running.length < this.config.maxSeqs && this.pool.free > 0) return true;
    return this.#running.some((one) => one.client.running >= client.running + 2);
  }

  /**
   * Takes over the blocks of the longest known prefix; returns how many positions they hold. Sets `following` where waiting
   * would give more. Prompt scores need every row of the prompt.
   */
  #adopt(next: Sequence): number {
    next.following = null;
    if (next.request.scorePrompt && generated(next) === 0) return 0;
    const cached = next.table.adopt(next.tokens);
    const { blockSize } = this.config;
    for (const leader of this.#running) {
      // A decode has nothing to wait for: what it computed is known.
      if (leader.client !== next.client || leader.computed + 1 >= leader.tokens.length) continue;
      if (leader.table.apart !== next.table.apart) continue;
      const until = commonBlocks(leader.tokens, next.tokens, blockSize) * blockSize;
      if (until > cached && until > leader.computed) next.following = { leader, until };
    }
    return cached;
  }

  /** The sequence to be admitted next, or null when none waits. */
  #next(best: number): Sequence | null {
    const key = ({ client }: Sequence, level: number) => [level, client.running, client.turn];
    let first: Sequence | null = null;
    for (const one of this.#queues.heads()) {
      if (first === null || isLess(key(one, this.#level(one, best)), key(first, this.#level(first, best))))
        first = one;
    }
    return first;
  }

  /**
   * The running sequences that must make way for `next`: none if it fits, null if it has to wait. It takes from clients
   * that run at least two more than its own, and at least as many afterwards, so that no two clients fight over one place;
   * and never more memory than its client's share.
   */
  #displaced(next: Sequence, best: number): Sequence[] | null {
    const missing = next.table.missing(next.tokens.length);
    let places = this.config.maxSeqs - this.#running.length;
    let blocks = this.pool.free;
    const victims: Sequence[] = [];
    const left = (client: Client) => client.running - victims.filter((one) => one.client === client).length;
    while (places < 1 || blocks < missing) {
      if (
        this.#queues.clients === 1 ||
        (blocks < missing && missing * this.#queues.clients > this.pool.total)
      ) {
        return null;
      }
      const donors = this.#running.filter(
        (one) =>
          !victims.includes(one) &&
          left(one.client) >= next.client.running + 2 &&
          this.#level(one, best) >= this.#level(next, best),
      );
      if (donors.length === 0) return null;
      const later = (a: Sequence, b: Sequence) =>
        left(a.client) - left(b.client) || Number(isExempt(b)) - Number(isExempt(a));
      const victim = donors.reduce((a, b) => (later(a, b) > 0 ? a : b));
      victims.push(victim);
      places++;
      blocks += victim.table.exclusive;
    }
    return victims;
  }

  #bestPriority(): number {
    let best = Infinity;
    for (const { request } of this.#byId.values()) best = Math.min(best, request.priority);
    return best;
  }

  /** The priority, improved by waiting up to `best`. */
  #level({ rank }: Sequence, best: number): number {
    return Math.max(best, Math.ceil((rank - this.#steps) / this.config.agingSteps));
  }

  /** Each sequence gets one token; those with more to compute share the rest of the budget evenly, first by client. */
  #share(): Pick<StepPlan, "items" | "sequences"> {
    const able: Sequence[] = [];
    const counts: number[] = [];
    const long = new Map<Client, number[]>();
    for (const sequence of this.#running) {
      const left = leftOf(sequence);
      if (left <= 0) continue;
      if (left > 1) {
        const own = long.get(sequence.client);
        if (own === undefined) long.set(sequence.client, [able.length]);
        else own.push(able.length);
      }
      able.push(sequence);
      counts.push(1);
    }
    const wanted = [...long.values()].map((own) => own.map((i) => leftOf(able[i]) - 1));
    const total = wanted.map((own) => own.reduce((sum, more) => sum + more, 0));
    const shares = evenShares(total, this.config.maxBatchedTokens - able.length);
    [...long.values()].forEach((own, c) => {
      for (const [j, extra] of evenShares(wanted[c], shares[c]).entries()) counts[own[j]] += extra;
    });
    return { sequences: able, items: able.map((sequence, i) => plan(sequence, counts[i])) };
  }

  #stop(sequence: Sequence): void {
    sequence.running = false;
    sequence.client.running--;
    this.#running.splice(this.#running.indexOf(sequence), 1);
  }
}

/** Leading full blocks that two sequences have in common; `b` has a token more. */
function commonBlocks(a: readonly number[], b: readonly number[], blockSize: number): number {
  const end = Math.min(a.length, b.length - 1);
  let length = 0;
  while (length < end && a[length] === b[length]) length++;
  return Math.floor(length / blockSize);
}

/** Divides `total` evenly, giving nobody more than wanted. */
function evenShares(wanted: readonly number[], total: number): number[] {
  const shares = wanted.map(() => 0);
  const order = [...wanted.keys()].sort((a, b) => wanted[a] - wanted[b] || a - b);
  order.forEach((at, i) => {
    shares[at] = Math.min(wanted[at], Math.ceil(total / (order.length - i)));
    total -= shares[at];
  });
  return shares;
}

function isLess(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && a[at] < b[at];
}
