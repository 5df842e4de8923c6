import { LIMITS } from "../limits.ts";
import type { DeviceShare } from "./device_share.ts";
import { asRequestError, cutOff, shuttingDown, unresponsive, waitedTooLong } from "./errors.ts";
import { type EngineObserver, type SequenceTimes, timeToken } from "./observer.ts";
import type { EngineListener, EnginePort, EngineState, EngineStats, Submitted } from "./port.ts";
import { assertRoom, type Queue } from "./queues.ts";
import { Scheduler } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";
import type {
  EngineEvent,
  FinishReason,
  ItemResult,
  PlanItem,
  Request,
  RunItem,
  Runner,
  StepPlan,
} from "./types.ts";
import { watched, within } from "./watchdog.ts";

export interface EngineOptions {
  readonly runner: Runner;
  /** Whom the device is shared with. */
  readonly share?: DeviceShare;
  /** Sequences that run at once. */
  readonly maxSeqs?: number;
  /** Tokens computed in one step. */
  readonly maxBatchedTokens?: number;
  readonly agingSteps?: number;
  /** Called with each failure whose details clients do not see. */
  readonly onError?: (error: unknown) => void;
  readonly limits?: Partial<
    Pick<typeof LIMITS, "queuedRequests" | "queuedTokens" | "queueWaitMs" | "stepMs">
  >;
}

const FAILING_AFTER = 3;

/** The requests of one call to `submit`: given up as a whole, and only before the first step of any of them. */
interface Submission {
  /** Monotonic time after which it is given up. */
  readonly giveUpAt: number;
  started: boolean;
}

interface Entry {
  readonly request: Request;
  readonly listener: EngineListener;
  readonly times: SequenceTimes;
  readonly submission: Submission;
  /** Prompt positions whose score was reported. A recompute does not report them again. */
  scored: number;
  /** Prompt tokens that the cache held; null before the first step. */
  cachedTokens: number | null;
}

/** A step that runs. */
interface Flight {
  readonly plan: StepPlan;
  readonly items: readonly RunItem[];
  readonly results: Promise<readonly ItemResult[]>;
  /** Whether the next step may begin before its results are there. */
  readonly feeds: boolean;
}

const NOTHING: Pick<EngineEvent, "token" | "scored" | "error"> = { token: null, scored: [], error: null };

/**
 * Runs requests over one model, step by step: schedule, run, report. Everything that ends a request goes through `#end`,
 * so each accepted request ends exactly once.
 */
export class Engine implements EnginePort {
  readonly runner: Runner;
  readonly #share: DeviceShare | undefined;
  readonly #scheduler: Scheduler;
  readonly #limits: typeof LIMITS;
  readonly #onError: (error: unknown) => void;
  readonly #entries = new Map<string, Entry>();
  readonly #observers: EngineObserver[] = [];
  readonly #finished: Record<FinishReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };
  #loop: Promise<void> | null = null;
  #draining = false;
  #hung = false;
  #steps = 0;
  /** Failed steps since the last that succeeded. */
  #failures = 0;
  #accepted = 0;
  #promptTokens = 0;
  #cachedTokens = 0;
  #generatedTokens = 0;

  constructor(options: EngineOptions) {
    const { runner, maxSeqs = 64, maxBatchedTokens = 512, agingSteps = 256 } = options;
    this.runner = runner;
    this.#share = options.share;
    this.#limits = { ...LIMITS, ...options.limits };
    this.#onError = options.onError ?? (() => {});
    this.#scheduler = new Scheduler({
      blockSize: runner.blockSize,
      blockCount: runner.blockCount,
      maxModelLen: runner.maxModelLen,
      maxSeqs,
      maxBatchedTokens,
      agingSteps,
    });
  }

  get state(): EngineState {
    if (this.#hung) return "hung";
    if (this.#draining) return "draining";
    return this.#failures >= FAILING_AFTER ? "failing" : "ready";
  }

  stats(): EngineStats {
    const { pool, running, waiting, deferred, preemptions } = this.#scheduler;
    return {
      state: this.state,
      running,
      waiting,
      deferred,
      blocksUsed: pool.used,
      blocksCached: pool.cached,
      blocksTotal: pool.total,
      preemptions,
      steps: this.#steps,
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      generatedTokens: this.#generatedTokens,
      accepted: this.#accepted,
      finished: { ...this.#finished },
    };
  }

  get queue(): Queue {
    return this.#scheduler.queue;
  }

  observe(observer: EngineObserver): void {
    this.#observers.push(observer);
  }

  checkRoom(client: string, sequences: number, tokens: number): void {
    if (this.#hung) throw unresponsive();
    if (this.#draining) throw shuttingDown();
    const { queuedRequests, queuedTokens } = this.#limits;
    const limit = { sequences: queuedRequests, tokens: queuedTokens };
    assertRoom(this.queue, client, { sequences, tokens }, limit, "requests");
  }

  submit(requests: readonly Submitted[]): void {
    this.checkRoom(
      requests[0].request.client,
      requests.length,
      requests.reduce((sum, { request }) => sum + request.prompt.length, 0),
    );
    const accepted = performance.now();
    const submission = { giveUpAt: accepted + this.#limits.queueWaitMs, started: false };
    for (const { request, listener } of requests) {
      this.#scheduler.add(request);
      const times = { accepted, started: null, firstToken: null, lastToken: null, generated: 0 };
      this.#entries.set(request.id, { request, listener, times, submission, scored: 0, cachedTokens: null });
      this.#accepted++;
    }
    for (const observer of this.#observers) observer.accepted(requests.map(({ request }) => request));
    this.#loop ??= this.#work();
  }

  abort(id: string, finish: "abort" | "stop" = "abort"): boolean {
    return this.#end(id, finish, NOTHING);
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    await within(this.#loop, timeoutMs);
    this.#failAll(cutOff());
  }

  async #work(): Promise<void> {
    this.#share?.enter();
    try {
      let flight: Flight | null = null;
      while (this.#entries.size > 0 || flight !== null) {
        // Sockets and timers get a turn, even where no step waits for a device.
        await new Promise((resolve) => setImmediate(resolve));
        this.#dropStale();
        const plan = this.#scheduler.schedule(flight !== null);
        const next: Flight | null = plan.items.length > 0 ? this.#launch(plan, flight !== null) : null;
        if (flight !== null) await this.#land(flight);
        flight = next;
        if (flight !== null && !flight.feeds) {
          await this.#land(flight);
          flight = null;
        }
      }
    } catch (error) {
      this.#onError(error);
      this.#failAll(error);
    } finally {
      // Not in a later microtask: a request that came before it would start no loop.
      this.#loop = null;
      this.#share?.leave();
    }
  }

  /** Begins a step; its results may be waited for later. `follows`: the step before it is still in flight. */
  #launch(plan: StepPlan, follows: boolean): Flight {
    for (const { id } of plan.items) this.#begin(id);
    const items = plan.items.map((item) => this.#runItem(item));
    this.#steps++;
    const run = async () => this.#watched(this.runner.run(items), follows ? 2 : 1);
    const results = this.#share?.step(run, follows) ?? run();
    // Until somebody waits for it, a failure must not end the process.
    results.catch(() => {});
    return { plan, items, results, feeds: items.every((item) => this.runner.feeds?.(item) ?? false) };
  }

  /** Waits for a step and takes in what it gave. */
  async #land({ plan, items, results: running }: Flight): Promise<void> {
    let results: readonly ItemResult[];
    try {
      results = await running;
      if (results.length !== items.length) throw new Error("the runner returned another number of items");
      this.#failures = 0;
    } catch (error) {
      this.#failures++;
      this.#onError(error);
      for (const { id } of plan.items) this.#fail(id, error);
      return;
    }
    const count = plan.items.reduce((sum, item) => sum + item.count, 0);
    for (const observer of this.#observers) observer.stepped(count);
    results.forEach(({ error: message }, i) => {
      // What ended before has nothing to tell: a step in flight goes on without it.
      if (message === undefined || !this.#entries.has(plan.items[i].id)) return;
      const error = new Error(message);
      this.#onError(error);
      this.#fail(plan.items[i].id, error);
    });
    for (const { index, sequence, finish } of this.#scheduler.advance(plan, results)) {
      this.#report(sequence, items[index], results[index], finish);
    }
  }

  #begin(id: string): void {
    const entry = this.#entries.get(id)!;
    entry.submission.started = true;
    entry.times.started ??= performance.now();
    if (entry.cachedTokens !== null) return;
    entry.cachedTokens = this.#scheduler.get(id)!.cachedTokens!;
    this.#cachedTokens += entry.cachedTokens;
    this.#promptTokens += entry.request.prompt.length;
  }

  #report(sequence: Sequence, item: RunItem, outcome: ItemResult, finish: FinishReason | null): void {
    const entry = this.#entries.get(sequence.request.id);
    // An earlier listener of this very step may have aborted it.
    if (entry === undefined) return;
    if (item.score !== null) entry.scored = item.start + item.rows[0] + item.score.targets.length;
    const { sampled: token, scored } = outcome;
    if (token !== null) this.#countToken(entry.times);
    if (finish !== null) this.#end(sequence.request.id, finish, { token, scored, error: null });
    else if (token !== null || scored.length > 0) {
      entry.listener({ token, scored, finish, error: null, cachedTokens: entry.cachedTokens ?? 0 });
    }
  }

  #countToken(times: SequenceTimes): void {
    this.#generatedTokens++;
    timeToken(times, this.#observers);
  }

  #runItem({ id, start, count, samples }: PlanItem): RunItem {
    const sequence = this.#scheduler.get(id)!;
    const { request, tokens, table } = sequence;
    const end = start + count;
    const isFed = end > tokens.length;
    // Each position predicts the token after it: those of the prompt are scored once, though a recompute sees them again.
    const scored = request.scorePrompt ? Math.max(start, this.#entries.get(id)!.scored) : end;
    const targets = request.prompt.slice(scored + 1, end + 1);
    const rows = targets.map((_, i) => scored - start + i);
    if (samples) rows.push(count - 1);
    return {
      id,
      tokens: isFed ? [...tokens.slice(start), -1] : tokens.slice(start, end),
      isFed,
      start,
      blockTable: table.blocks,
      rows,
      adapter: request.adapter,
      sample: samples
        ? {
            params: request.sampling,
            history: tokens,
            promptLength: request.prompt.length,
            position: end,
            banned: end - request.prompt.length < request.minTokens ? request.stopTokenIds : null,
            constraint: request.constraint,
            topLogprobs: request.topLogprobs,
          }
        : null,
      score:
        targets.length > 0
          ? { targets, topLogprobs: request.promptLogprobs ?? request.topLogprobs ?? 0 }
          : null,
    };
  }

  #fail(id: string, cause: unknown): void {
    const error = asRequestError(cause);
    this.#end(id, "error", { ...NOTHING, error });
  }

  #failAll(error: unknown): void {
    for (const id of [...this.#entries.keys()]) this.#fail(id, error);
  }

  #dropStale(): void {
    const now = performance.now();
    for (const [id, { submission }] of this.#entries) {
      if (submission.started || now < submission.giveUpAt) continue;
      this.#fail(id, waitedTooLong());
    }
  }

  #end(id: string, finish: FinishReason, news: Pick<EngineEvent, "token" | "scored" | "error">): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    this.#entries.delete(id);
    this.#scheduler.remove(id);
    this.#finished[finish]++;
    for (const observer of this.#observers)
      observer.ended(entry.request, finish, entry.times, performance.now());
    entry.listener({ ...news, finish, cachedTokens: entry.cachedTokens ?? 0 });
    return true;
  }

  /**
   * Fails all requests, and refuses new ones, while a step takes longer than it may, or than `steps` may. Work resumes if it
   * returns.
   */
  async #watched<T>(step: Promise<T>, steps: number): Promise<T> {
    try {
      return await watched(step, this.#limits.stepMs * steps, () => this.#hang());
    } finally {
      this.#hung = false;
    }
  }

  #hang(): void {
    this.#hung = true;
    this.#failAll(unresponsive());
  }
}
