import type { SchedulerConfig } from "../../serve/engine/scheduler.ts";
import type { Sequence } from "../../serve/engine/sequence.ts";
import type { Request } from "../../serve/engine/types.ts";
import { ListedScheduler, makeRequest } from "../serve_fake.ts";
import { checkPlan, resultsOf } from "./serve_plans.ts";

/** Milliseconds of a step: `a`, and `b` for each token that it computes, and `c` for each that these attend to. */
export interface Costs {
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

export interface Arrival {
  /** Milliseconds. */
  readonly at: number;
  readonly request: Partial<Request>;
}

/** What became of one request; times in milliseconds of the virtual clock. */
export interface Life {
  readonly sequence: Sequence;
  readonly arrived: number;
  /** The begin of its first step. */
  started: number | null;
  /** When each token of the answer was there. */
  readonly tokens: number[];
  /** Gave up waiting. */
  dropped: boolean;
}

export interface SimulatorOptions extends Partial<SchedulerConfig> {
  readonly costs: Costs;
  /** Requests that may wait; more are refused. */
  readonly queue?: number;
  /** Milliseconds that one may wait for its first step. */
  readonly queueWaitMs?: number;
}

/**
 * The scheduler under a virtual clock and a model of costs: exact, the same on every machine. Every plan is checked for
 * legality, lost blocks and work left undone.
 */
export class Simulator {
  readonly scheduler: ListedScheduler;
  readonly lives: Life[] = [];
  clock = 0;
  steps = 0;
  refused = 0;
  /** Called with each plan, before its step. */
  onStep: (scheduler: ListedScheduler) => void = () => {};
  readonly #options: SimulatorOptions;
  readonly #byId = new Map<string, Life>();

  constructor(options: SimulatorOptions) {
    this.#options = options;
    this.scheduler = new ListedScheduler({
      ...{ blockSize: 16, blockCount: 4096, maxModelLen: 4096, maxSeqs: 64, maxBatchedTokens: 512 },
      agingSteps: 256,
      ...options,
    });
  }

  /** Runs until all have ended, or until `end`. @returns the lives of these arrivals, which are in order of time. */
  run(arrivals: Iterable<Arrival>, end = Infinity): Life[] {
    const before = this.lives.length;
    const coming = arrivals[Symbol.iterator]();
    let next = coming.next();
    while (this.clock < end) {
      for (; !next.done && next.value.at <= this.clock; next = coming.next()) this.#arrive(next.value);
      this.#dropStale();
      const plan = this.scheduler.schedule();
      if (plan.items.length > 0) this.#step(plan);
      else if (next.done) break;
      else this.clock = next.value.at;
    }
    return this.lives.slice(before);
  }

  #arrive({ at, request }: Arrival): void {
    if (this.scheduler.waiting >= (this.#options.queue ?? Infinity)) {
      this.refused++;
      return;
    }
    const sequence = this.scheduler.add(makeRequest(request));
    const life = { sequence, arrived: at, started: null, tokens: [], dropped: false };
    this.lives.push(life);
    this.#byId.set(sequence.request.id, life);
  }

  #dropStale(): void {
    const { queueWaitMs = Infinity } = this.#options;
    if (queueWaitMs === Infinity) return;
    for (const { request, cachedTokens } of this.scheduler.sequences()) {
      const life = this.#byId.get(request.id)!;
      if (cachedTokens !== null || this.clock - life.arrived < queueWaitMs) continue;
      life.dropped = true;
      this.scheduler.remove(request.id);
    }
  }

  #step(plan: ReturnType<ListedScheduler["schedule"]>): void {
    checkPlan(this.scheduler, plan);
    this.onStep(this.scheduler);
    for (const { id } of plan.items) this.#byId.get(id)!.started ??= this.clock;
    const { a, b, c } = this.#options.costs;
    this.clock += a;
    for (const { start, count } of plan.items) this.clock += b * count + c * (start + count);
    this.steps++;
    const results = resultsOf(this.scheduler, plan);
    for (const { index, sequence } of this.scheduler.advance(plan, results))
      if (results[index].sampled !== null) this.#byId.get(sequence.request.id)!.tokens.push(this.clock);
  }
}

/** Milliseconds to the first token. */
export const ttft = ({ arrived, tokens }: Life) => tokens[0] - arrived;

/** Milliseconds between tokens, of all of them, in ascending order. */
export function gaps(lives: readonly Life[]): number[] {
  const all = lives.flatMap(({ tokens }) => tokens.slice(1).map((at, i) => at - tokens[i]));
  return all.sort((a, b) => a - b);
}

/** Of ascending numbers, the one that a share `p` lies below. */
export const percentile = (sorted: readonly number[], p: number) =>
  sorted[Math.floor(p * (sorted.length - 1))];

export const mean = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
