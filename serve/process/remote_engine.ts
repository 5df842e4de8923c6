import { asRequestError, cutOff, type RequestError, shuttingDown } from "../engine/errors.ts";
import { type EngineObserver, type SequenceTimes, timeToken } from "../engine/observer.ts";
import type { EngineListener, EnginePort, EngineState, EngineStats, Submitted } from "../engine/port.ts";
import { assertRoom, type Queue } from "../engine/queues.ts";
import type { AdapterHost, EngineEvent, FinishReason, Request } from "../engine/types.ts";
import { within } from "../engine/watchdog.ts";
import type { Limits } from "../limits.ts";
import { readError } from "./errors.ts";
import type { Order, WriterFacts, WritingReport, WrittenEvent } from "./messages.ts";
import { assertWorks, type Post, RemoteQueue, sumOf, whenEmpty } from "./remote_queue.ts";

interface Entry {
  readonly request: Request;
  readonly listener: EngineListener;
  readonly times: SequenceTimes;
  cachedTokens: number;
}

/** What an engine's process counts; the rest is counted here, since it must agree with what clients were told. */
const COUNTED = ["preemptions", "steps", "promptTokens", "cachedTokens"] as const;

const IDLE = {
  state: "ready" as EngineState,
  ...{ running: 0, deferred: 0, blocksUsed: 0, blocksCached: 0 },
  ...{ preemptions: 0, steps: 0, promptTokens: 0, cachedTokens: 0 },
};

/**
 * An engine in another process, which may end at any moment: then all its requests end with an error, and a new process goes
 * on with the same port. Times are those of this process, as clients see them.
 */
export class RemoteEngine implements EnginePort {
  readonly runner: EnginePort["runner"];
  readonly #facts: WriterFacts & { adapters: AdapterHost };
  readonly #post: Post;
  readonly #model: string;
  readonly #limits: Limits;
  readonly #entries = new Map<string, Entry>();
  readonly #observers: EngineObserver[] = [];
  readonly #finished: Record<FinishReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };
  readonly #queue = new RemoteQueue();
  /** What the process said last. */
  #last: Omit<EngineStats, "waiting" | "blocksTotal" | "generatedTokens" | "accepted" | "finished"> = IDLE;
  /** What processes counted that have ended. */
  #before: Pick<EngineStats, (typeof COUNTED)[number]> = IDLE;
  #draining = false;
  #accepted = 0;
  #generatedTokens = 0;
  #empty: (() => void) | null = null;

  constructor(model: string, facts: WriterFacts, adapters: AdapterHost, post: Post, limits: Limits) {
    this.#model = model;
    this.#facts = { ...facts, adapters };
    this.runner = this.#facts;
    this.#post = post;
    this.#limits = limits;
  }

  get state(): EngineState {
    if (this.#draining) return "draining";
    return this.#post.ready ? this.#last.state : "starting";
  }

  get queue(): Queue {
    return this.#queue.sizes;
  }

  stats(): EngineStats {
    const open = this.#entries.size;
    const running = Math.min(this.#last.running, open);
    return {
      ...this.#last,
      ...sumOf(COUNTED, this.#last, this.#before),
      state: this.state,
      running,
      waiting: open - running,
      blocksTotal: this.#facts.blockCount,
      generatedTokens: this.#generatedTokens,
      accepted: this.#accepted,
      finished: { ...this.#finished },
    };
  }

  observe(observer: EngineObserver): void {
    this.#observers.push(observer);
  }

  checkRoom(client: string, sequences: number, tokens: number): void {
    if (this.#draining) throw shuttingDown();
    assertWorks(this.state);
    const { queuedRequests, queuedTokens } = this.#limits;
    const limit = { sequences: queuedRequests, tokens: queuedTokens };
    assertRoom(this.queue, client, { sequences, tokens }, limit, "requests");
  }

  submit(submitted: readonly Submitted[]): void {
    const requests = submitted.map(({ request }) => request);
    const { client } = requests[0];
    const tokens = requests.reduce((sum, { prompt }) => sum + prompt.length, 0);
    this.checkRoom(client, requests.length, tokens);
    const accepted = performance.now();
    for (const { request, listener } of submitted) {
      const times = { accepted, started: null, firstToken: null, lastToken: null, generated: 0 };
      this.#entries.set(request.id, { request, listener, times, cachedTokens: 0 });
      this.#accepted++;
    }
    for (const observer of this.#observers) observer.accepted(requests);
    const turn = this.#queue.add(client, { sequences: requests.length, tokens });
    this.#post.push({ do: "write", model: this.#model, turn, requests: requests.map(written) });
  }

  abort(id: string, finish: "abort" | "stop" = "abort"): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    this.#post.push({ do: "abort", model: this.#model, id, finish });
    this.#end(id, finish, { token: null, scored: [], error: null });
    return true;
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    await within(
      whenEmpty(this.#entries, (empty) => {
        this.#empty = empty;
      }),
      timeoutMs,
    );
    for (const id of this.#entries.keys())
      this.#post.push({ do: "abort", model: this.#model, id, finish: "abort" });
    this.#failAll(cutOff());
  }

  /** Takes in what the process tells. */
  take({ events, steps, stats, queue, seen }: WritingReport): void {
    this.#last = stats;
    this.#queue.take(queue, seen);
    for (const tokens of steps) for (const observer of this.#observers) observer.stepped(tokens);
    for (const event of events) this.#hear(event);
  }

  /** The process has ended: so do all requests. */
  lose(error: RequestError): void {
    this.#before = sumOf(COUNTED, this.#last, this.#before);
    this.#last = IDLE;
    this.#queue.clear();
    this.#failAll(error);
  }

  /** Another process has the model. */
  restore(facts: WriterFacts): void {
    Object.assign(this.#facts, facts);
  }

  #hear({ id, token, scored, finish, error, cachedTokens, queuedMs }: WrittenEvent): void {
    const entry = this.#entries.get(id);
    // One that ended here may go on for a step over there.
    if (entry === undefined) return;
    entry.cachedTokens = cachedTokens;
    const { times } = entry;
    if (queuedMs !== null) times.started = times.accepted + queuedMs;
    if (token !== null) this.#countToken(times);
    const news = { token, scored, error: error === null ? null : asRequestError(readError(error)) };
    if (finish !== null) this.#end(id, finish, news);
    else entry.listener({ ...news, finish, cachedTokens });
  }

  #countToken(times: SequenceTimes): void {
    this.#generatedTokens++;
    timeToken(times, this.#observers);
  }

  #failAll(error: RequestError): void {
    for (const id of [...this.#entries.keys()]) this.#end(id, "error", { token: null, scored: [], error });
  }

  /** The only place that ends a request. */
  #end(id: string, finish: FinishReason, news: Pick<EngineEvent, "token" | "scored" | "error">): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#finished[finish]++;
    const now = performance.now();
    for (const observer of this.#observers) observer.ended(entry.request, finish, entry.times, now);
    entry.listener({ ...news, finish, cachedTokens: entry.cachedTokens });
    if (this.#entries.size === 0) this.#empty?.();
  }
}

function written(request: Request): (Order & { do: "write" })["requests"][number] {
  const { constraint } = request;
  if (constraint !== null && constraint.spec === undefined)
    throw new Error("a constraint of this process alone cannot be sent to another");
  return { ...request, constraint: constraint?.spec ?? null };
}
