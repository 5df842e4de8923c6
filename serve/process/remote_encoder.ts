import type { EncodedText } from "../../models/text_rows.ts";
import { asRequestError, closedByClient, cutOff, type RequestError, shuttingDown } from "../engine/errors.ts";
import type { EncoderPort, EncoderRun, EncoderStats, EngineState } from "../engine/port.ts";
import { assertRoom, type Queue } from "../engine/queues.ts";
import type { FinishReason } from "../engine/types.ts";
import { within } from "../engine/watchdog.ts";
import type { Limits } from "../limits.ts";
import { readError } from "./errors.ts";
import type { ReadingReport } from "./messages.ts";
import { assertWorks, type Post, RemoteQueue, whenEmpty } from "./remote_queue.ts";

interface Job {
  readonly resolve: (numbers: readonly Float32Array[]) => void;
  readonly reject: (error: RequestError) => void;
}

const IDLE = { state: "ready" as EngineState, running: 0, waiting: 0, batches: 0 };

/** An encoder's engine in another process: see `RemoteEngine`. */
export class RemoteEncoder implements EncoderPort {
  readonly runner: { readonly vocabSize: number; readonly maxModelLen: number };
  readonly #post: Post;
  readonly #model: string;
  readonly #limits: Limits;
  readonly #jobs = new Map<number, Job>();
  readonly #finished: Record<FinishReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };
  readonly #queue = new RemoteQueue();
  #last: Pick<EncoderStats, "state" | "running" | "waiting" | "batches"> = IDLE;
  /** Batches of processes that have ended. */
  #batches = 0;
  #draining = false;
  #accepted = 0;
  #promptTokens = 0;
  #empty: (() => void) | null = null;

  constructor(model: string, runner: EncoderPort["runner"], post: Post, limits: Limits) {
    this.#model = model;
    this.runner = runner;
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

  stats(): EncoderStats {
    const { running, waiting, batches } = this.#last;
    return {
      state: this.state,
      running,
      waiting,
      batches: batches + this.#batches,
      promptTokens: this.#promptTokens,
      accepted: this.#accepted,
      finished: { ...this.#finished },
    };
  }

  checkRoom(client: string, sequences: number, tokens: number): void {
    if (this.#draining) throw shuttingDown();
    assertWorks(this.state);
    const { queuedTexts, queuedTokens } = this.#limits;
    const limit = { sequences: queuedTexts, tokens: queuedTokens };
    assertRoom(this.queue, client, { sequences, tokens }, limit, "texts");
  }

  submit(client: string, texts: readonly EncodedText[]): EncoderRun {
    const tokens = texts.reduce((sum, { ids }) => sum + ids.length, 0);
    this.checkRoom(client, texts.length, tokens);
    this.#accepted++;
    this.#promptTokens += tokens;
    const turn = this.#queue.add(client, { sequences: texts.length, tokens });
    const done = new Promise<readonly Float32Array[]>((resolve, reject) => {
      this.#jobs.set(turn, { resolve, reject });
    });
    // Without a listener (a client that left), a rejection must not end the process.
    done.catch(() => {});
    this.#post.push({ do: "read", model: this.#model, turn, client, texts });
    return { done, cancel: () => this.#cancel(turn, "abort", closedByClient()) };
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    await within(
      whenEmpty(this.#jobs, (empty) => {
        this.#empty = empty;
      }),
      timeoutMs,
    );
    for (const turn of [...this.#jobs.keys()]) this.#cancel(turn, "error", cutOff());
  }

  /** Takes in what the process tells. */
  take({ ended, stats, queue, seen }: ReadingReport): void {
    this.#last = stats;
    this.#queue.take(queue, seen);
    for (const { turn, numbers, error } of ended) {
      if (error === null) this.#end(turn, "stop", ({ resolve }) => resolve(numbers));
      else this.#end(turn, "error", ({ reject }) => reject(asRequestError(readError(error))));
    }
  }

  /** The process has ended: so do all requests. */
  lose(error: RequestError): void {
    this.#batches += this.#last.batches;
    this.#last = IDLE;
    this.#queue.clear();
    for (const turn of [...this.#jobs.keys()]) this.#end(turn, "error", ({ reject }) => reject(error));
  }

  /** Another process has the model, of which nothing can have changed. */
  restore(): void {}

  #cancel(turn: number, finish: FinishReason, error: RequestError): void {
    if (!this.#jobs.has(turn)) return;
    this.#post.push({ do: "cancel", model: this.#model, turn });
    this.#end(turn, finish, ({ reject }) => reject(error));
  }

  /** The only place that ends a request. Does nothing for one that has ended. */
  #end(turn: number, finish: FinishReason, settle: (job: Job) => void): void {
    const job = this.#jobs.get(turn);
    if (job === undefined) return;
    this.#jobs.delete(turn);
    this.#finished[finish]++;
    settle(job);
    if (this.#jobs.size === 0) this.#empty?.();
  }
}
