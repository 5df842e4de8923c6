import { KilnError } from "../../core/errors.ts";
import { BlockPool, BlockTable } from "./blocks.ts";
import type { FinishReason, ItemResult, PlanItem, Request, StepPlan } from "./types.ts";

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

/** A request on its way through the engine. */
export interface Sequence {
  readonly request: Request;
  /** Prompt, then what was generated. */
  readonly tokens: number[];
  /** Positions whose K and V are in the cache. */
  computed: number;
  readonly table: BlockTable;
  readonly client: Client;
  running: boolean;
  /** Order among the sequences of its client: smaller first, then by `arrival`. */
  readonly rank: number;
  readonly arrival: number;
}

/** One of those who share the model: all sequences with its name. */
interface Client {
  /** In order of service. */
  readonly waiting: Sequence[];
  /** Tokens of the waiting sequences. */
  waitingTokens: number;
  running: number;
  /** Waiting and running. */
  sequences: number;
  /** When it was last admitted, or arrived: of clients that run equally many, the lowest turn is next. */
  turn: number;
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
 * When blocks run out, the victim of the preemption is the last sequence in order (of the worst level, of the client that
 * runs most): it gives back all blocks and is computed again later. The first in order always advances.
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
  /** Clients with a sequence here, by name. */
  readonly #clients = new Map<string, Client>();
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
    this.pool = new BlockPool(config.blockCount);
  }

  get running(): number {
    return this.#running.length;
  }

  get waiting(): number {
    return this.#byId.size - this.#running.length;
  }

  /** The size of the queue, of everybody and of one client, and how many other clients wait. */
  queue(client: string) {
    const all = [...this.#clients].filter(([, { waiting }]) => waiting.length > 0);
    const size = (of: typeof all) => ({
      sequences: of.reduce((sum, [, { waiting }]) => sum + waiting.length, 0),
      tokens: of.reduce((sum, [, { waitingTokens }]) => sum + waitingTokens, 0),
    });
    const own = all.filter(([name]) => name === client);
    return { total: size(all), own: size(own), others: all.length - own.length };
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
    const client = this.#clientOf(request.client);
    client.sequences++;
    const sequence: Sequence = {
      request,
      client,
      tokens: [...request.prompt],
      computed: 0,
      table: new BlockTable(this.pool, this.config.blockSize),
      running: false,
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
    if (sequence.running) this.#stop(sequence);
    else this.#unqueue(sequence);
    if (--sequence.client.sequences === 0) this.#clients.delete(sequence.request.client);
    sequence.table.clear();
    return true;
  }

  /** Plans the next step; no items when nothing is left to do. Its results must be taken in before the next plan. */
  schedule(): StepPlan {
    this.#steps++;
    const preempted: string[] = [];
    this.#makeRoom(preempted);
    this.#admit(preempted);
    return { items: this.#share(), preempted };
  }

  /** Takes in the results of `plan`. Sequences that left meanwhile, and items with an error, are skipped. */
  advance(plan: StepPlan, results: readonly ItemResult[]): Advanced[] {
    const advanced: Advanced[] = [];
    plan.items.forEach(({ id, start, count }, index) => {
      const sequence = this.#byId.get(id);
      const outcome = results[index];
      if (sequence === undefined || outcome === undefined || outcome.error !== undefined) return;
      if (sequence.computed !== start) throw new Error(`results of ${id} out of order`);
      sequence.computed += count;
      if (outcome.sampled !== null) sequence.tokens.push(outcome.sampled.id);
      const finish = finishOf(sequence);
      if (finish !== null) this.remove(id);
      advanced.push({ index, sequence, finish });
    });
    return advanced;
  }

  /** Gives every running sequence room for the tokens it has, preempting the last in order where blocks run out. */
  #makeRoom(preempted: string[]): void {
    for (const sequence of [...this.#running]) {
      while (sequence.running && !sequence.table.grow(sequence.tokens.length)) {
        const best = this.#bestPriority();
        const later = (a: Sequence, b: Sequence) =>
          this.#level(a, best) - this.#level(b, best) || a.client.running - b.client.running;
        // Among equals, the last by rank.
        this.#preempt(
          this.#running.reduce((a, b) => (later(a, b) > 0 ? a : b)),
          preempted,
        );
      }
    }
  }

  #preempt(victim: Sequence, preempted: string[]): void {
    this.#stop(victim);
    victim.table.clear();
    victim.computed = 0;
    this.#preemptions++;
    this.#enqueue(victim);
    preempted.push(victim.request.id);
  }

  #admit(preempted: string[]): void {
    if (this.waiting === 0) return;
    const best = this.#bestPriority();
    for (let next = this.#next(best); next !== null; next = this.#next(best)) {
      const { client } = next;
      const victims = this.#displaced(next, best);
      if (victims === null) return;
      for (const victim of victims) this.#preempt(victim, preempted);
      this.#unqueue(next);
      next.table.grow(next.tokens.length);
      next.running = true;
      client.running++;
      client.turn = this.#admissions++;
      insert(this.#running, next);
    }
  }

  /** The sequence to be admitted next, or null when none waits. */
  #next(best: number): Sequence | null {
    const key = ({ waiting, running, turn }: Client) => [this.#level(waiting[0], best), running, turn];
    let first: Client | null = null;
    for (const client of this.#clients.values()) {
      if (client.waiting.length === 0) continue;
      if (first === null || isLess(key(client), key(first))) first = client;
    }
    return first === null ? null : first.waiting[0];
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
      if (this.#clients.size === 1 || (blocks < missing && missing * this.#clients.size > this.pool.total)) {
        return null;
      }
      const donors = this.#running.filter(
        (one) =>
          !victims.includes(one) &&
          left(one.client) >= next.client.running + 2 &&
          this.#level(one, best) >= this.#level(next, best),
      );
      if (donors.length === 0) return null;
      const victim = donors.reduce((a, b) => (left(a.client) > left(b.client) ? a : b));
      victims.push(victim);
      places++;
      blocks += victim.table.blocks.length;
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

  /** Each sequence gets one token; those with more to compute share the rest of the budget evenly. */
  #share(): PlanItem[] {
    const more = this.#running.map(({ tokens, computed }) => tokens.length - computed - 1);
    const budget = this.config.maxBatchedTokens - this.#running.length;
    const counts = more.map(() => 1);
    const clients = [...new Set(this.#running.filter((_, i) => more[i] > 0).map(({ client }) => client))];
    const own = clients.map((client) => [...more.keys()].filter((i) => this.#running[i].client === client));
    const wanted = own.map((indices) => indices.reduce((sum, i) => sum + more[i], 0));
    evenShares(wanted, budget).forEach((share, c) => {
      const indices = own[c];
      evenShares(
        indices.map((i) => more[i]),
        share,
      ).forEach((count, j) => {
        counts[indices[j]] += count;
      });
    });
    return this.#running.map(({ request, computed }, i) => ({
      id: request.id,
      start: computed,
      count: counts[i],
    }));
  }

  #clientOf(name: string): Client {
    let client = this.#clients.get(name);
    if (client === undefined) {
      client = { waiting: [], waitingTokens: 0, running: 0, sequences: 0, turn: this.#admissions };
      this.#clients.set(name, client);
    }
    return client;
  }

  #enqueue(sequence: Sequence): void {
    insert(sequence.client.waiting, sequence);
    sequence.client.waitingTokens += sequence.tokens.length;
  }

  #unqueue(sequence: Sequence): void {
    const { client } = sequence;
    client.waiting.splice(client.waiting.indexOf(sequence), 1);
    client.waitingTokens -= sequence.tokens.length;
  }

  #stop(sequence: Sequence): void {
    sequence.running = false;
    sequence.client.running--;
    this.#running.splice(this.#running.indexOf(sequence), 1);
  }
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
  while (at > 0 && before(sequence, list[at - 1])) at--;
  list.splice(at, 0, sequence);
}

function before(a: Sequence, b: Sequence): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.arrival < b.arrival);
}

function isLess(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && a[at] < b[at];
}
