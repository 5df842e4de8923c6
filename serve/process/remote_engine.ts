import { asRequestError, cutOff, type RequestError } from "../engine/errors.ts";
import { type EngineObserver, type SequenceTimes, timeToken } from "../engine/observer.ts";
import type { EngineListener, EnginePort, EngineState, EngineStats, Submitted } from "../engine/port.ts";
import type { AdapterHost, EngineEvent, FinishReason, Request } from "../engine/types.ts";
import { readError } from "./errors.ts";
import type { Order, WriterFacts, WritingReport, WrittenEvent } from "./messages.ts";
import { type RemoteOptions, RemotePort } from "./remote_port.ts";

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

type Told = Omit<EngineStats, "waiting" | "blocksTotal" | "generatedTokens" | "accepted" | "finished">;
type Counts = Pick<EngineStats, (typeof COUNTED)[number]>;

/** An engine that writes, in another process. Times are those of this process, as clients see them. */
export class RemoteEngine extends RemotePort<string, Entry, Told> implements EnginePort {
  readonly runner: EnginePort["runner"];
  readonly #facts: WriterFacts & { adapters: AdapterHost };
  readonly #observers: EngineObserver[] = [];
  /** What processes counted that have ended. */
  #before: Counts = IDLE;
  #generatedTokens = 0;

  constructor(options: RemoteOptions, facts: WriterFacts, adapters: AdapterHost) {
    super(options, { idle: IDLE, what: "requests" });
    this.#facts = { ...facts, adapters };
    this.runner = this.#facts;
  }

  stats(): EngineStats {
    const open = this.entries.size;
    const running = Math.min(this.last.running, open);
    return {
      ...this.last,
      ...this.#counted(),
      state: this.state,
      running,
      waiting: open - running,
      blocksTotal: this.#facts.blockCount,
      generatedTokens: this.#generatedTokens,
      accepted: this.accepted,
      finished: { ...this.finished },
    };
  }

  observe(observer: EngineObserver): void {
    this.#observers.push(observer);
  }

  submit(submitted: readonly Submitted[]): void {
    const requests = submitted.map(({ request }) => request);
    const { client } = requests[0];
    const tokens = requests.reduce((sum, { prompt }) => sum + prompt.length, 0);
    const turn = this.send(client, { sequences: requests.length, tokens });
    const accepted = performance.now();
    for (const { request, listener } of submitted) {
      const times = { accepted, started: null, firstToken: null, lastToken: null, generated: 0 };
      this.entries.set(request.id, { request, listener, times, cachedTokens: 0 });
      this.accepted++;
    }
    for (const observer of this.#observers) observer.accepted(requests);
    this.post.push({ do: "write", model: this.model, turn, requests: requests.map(written) });
  }

  abort(id: string, finish: "abort" | "stop" = "abort"): boolean {
    const entry = this.entries.get(id);
    if (entry === undefined) return false;
    this.post.push({ do: "abort", model: this.model, id, finish });
    this.#end(id, finish, { token: null, scored: [], error: null });
    return true;
  }

  protected cutOff(): void {
    for (const id of this.entries.keys())
      this.post.push({ do: "abort", model: this.model, id, finish: "abort" });
    this.failAll(cutOff());
  }

  /** Takes in what the process tells. */
  take({ events, steps, stats, queue, seen }: WritingReport): void {
    this.hear(stats, queue, seen);
    for (const tokens of steps) for (const observer of this.#observers) observer.stepped(tokens);
    for (const event of events) this.#event(event);
  }

  protected addUp(): void {
    this.#before = this.#counted();
  }

  #counted(): Counts {
    const counts = COUNTED.map((name) => [name, this.last[name] + this.#before[name]]);
    return Object.fromEntries(counts) as Counts;
  }

  /** Another process has the model. */
  restore(facts: WriterFacts): void {
    Object.assign(this.#facts, facts);
  }

  #event({ id, token, scored, finish, error, cachedTokens, queuedMs }: WrittenEvent): void {
    const entry = this.entries.get(id);
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

  protected failAll(error: RequestError): void {
    for (const id of [...this.entries.keys()]) this.#end(id, "error", { token: null, scored: [], error });
  }

  #end(id: string, finish: FinishReason, news: Pick<EngineEvent, "token" | "scored" | "error">): void {
    const entry = this.close(id, finish);
    if (entry === undefined) return;
    const now = performance.now();
    for (const observer of this.#observers) observer.ended(entry.request, finish, entry.times, now);
    entry.listener({ ...news, finish, cachedTokens: entry.cachedTokens });
    this.closed();
  }
}

function written(request: Request): (Order & { do: "write" })["requests"][number] {
  const { constraint } = request;
  if (constraint !== null && constraint.spec === undefined)
    throw new Error("a constraint of this process alone cannot be sent to another");
  return { ...request, constraint: constraint?.spec ?? null };
}
