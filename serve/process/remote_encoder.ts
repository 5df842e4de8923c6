import type { EncodedText } from "../../models/text_rows.ts";
import { asRequestError, closedByClient, cutOff, type RequestError } from "../engine/errors.ts";
import type { EncoderPort, EncoderRun, EncoderStats, EngineState } from "../engine/port.ts";
import type { FinishReason } from "../engine/types.ts";
import { readError } from "./errors.ts";
import type { ReadingReport } from "./messages.ts";
import { type RemoteOptions, RemotePort } from "./remote_port.ts";

interface Job {
  readonly resolve: (numbers: readonly Float32Array[]) => void;
  readonly reject: (error: RequestError) => void;
}

const IDLE = { state: "ready" as EngineState, running: 0, waiting: 0, batches: 0 };

type Told = Pick<EncoderStats, "state" | "running" | "waiting" | "batches">;

/** An encoder's engine in another process. */
export class RemoteEncoder extends RemotePort<number, Job, Told> implements EncoderPort {
  readonly runner: { readonly vocabSize: number; readonly maxModelLen: number };
  /** Batches of processes that have ended. */
  #batches = 0;
  #promptTokens = 0;

  constructor(options: RemoteOptions, runner: EncoderPort["runner"]) {
    super(options, { idle: IDLE, what: "texts" });
    this.runner = runner;
  }

  stats(): EncoderStats {
    const { running, waiting, batches } = this.last;
    return {
      state: this.state,
      running,
      waiting,
      batches: batches + this.#batches,
      promptTokens: this.#promptTokens,
      accepted: this.accepted,
      finished: { ...this.finished },
    };
  }

  submit(client: string, texts: readonly EncodedText[]): EncoderRun {
    const tokens = texts.reduce((sum, { ids }) => sum + ids.length, 0);
    const turn = this.send(client, { sequences: texts.length, tokens });
    this.accepted++;
    this.#promptTokens += tokens;
    const done = new Promise<readonly Float32Array[]>((resolve, reject) => {
      this.entries.set(turn, { resolve, reject });
    });
    // Without a listener (a client that left), a rejection must not end the process.
    done.catch(() => {});
    this.post.push({ do: "read", model: this.model, turn, client, texts });
    return { done, cancel: () => this.#cancel(turn, "abort", closedByClient()) };
  }

  protected cutOff(): void {
    for (const turn of [...this.entries.keys()]) this.#cancel(turn, "error", cutOff());
  }

  /** Takes in what the process tells. */
  take({ ended, stats, queue, seen }: ReadingReport): void {
    this.hear(stats, queue, seen);
    for (const { turn, numbers, error } of ended) {
      if (error === null) this.#end(turn, "stop", ({ resolve }) => resolve(numbers));
      else this.#end(turn, "error", ({ reject }) => reject(asRequestError(readError(error))));
    }
  }

  protected addUp(): void {
    this.#batches += this.last.batches;
  }

  protected failAll(error: RequestError): void {
    for (const turn of [...this.entries.keys()]) this.#end(turn, "error", ({ reject }) => reject(error));
  }

  /** Another process has the model, of which nothing can have changed. */
  restore(): void {}

  #cancel(turn: number, finish: FinishReason, error: RequestError): void {
    if (!this.entries.has(turn)) return;
    this.post.push({ do: "cancel", model: this.model, turn });
    this.#end(turn, finish, ({ reject }) => reject(error));
  }

  /** Does nothing for one that has ended. */
  #end(turn: number, finish: FinishReason, settle: (job: Job) => void): void {
    const job = this.close(turn, finish);
    if (job === undefined) return;
    settle(job);
    this.closed();
  }
}
