import type { EncodedText } from "../../models/text_rows.ts";
import type { EncoderRunner } from "./encoder_runner.ts";
import type { EngineObserver } from "./observer.ts";
import type { Queue } from "./queues.ts";
import type { EngineEvent, FinishReason, Request, Runner } from "./types.ts";

/** Gets the events of one request. Must not throw; may call `abort`. */
export type EngineListener = (event: EngineEvent) => void;

/**
 * `failing`: the last steps all failed. Requests are still accepted, and the first step that succeeds ends it. `starting`:
 * its process ended, and another one loads the model.
 */
export type EngineState = "ready" | "draining" | "hung" | "failing" | "starting";

export interface EngineStats {
  readonly state: EngineState;
  readonly running: number;
  readonly waiting: number;
  /** Those of the waiting that wait for another to compute their prefix. */
  readonly deferred: number;
  readonly blocksUsed: number;
  /** Free blocks that hold a prefix which may be asked for again. */
  readonly blocksCached: number;
  readonly blocksTotal: number;
  readonly preemptions: number;
  readonly steps: number;
  /** Of the sequences that have begun. */
  readonly promptTokens: number;
  /** Those of them that the cache held. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly accepted: number;
  readonly finished: Readonly<Record<FinishReason, number>>;
}

/** A request and who hears of it. */
export interface Submitted {
  readonly request: Request;
  readonly listener: EngineListener;
}

/** An engine that writes, in this process or another. */
export interface EnginePort {
  /** What there is to know of its runner. */
  readonly runner: Pick<
    Runner,
    "vocabSize" | "maxModelLen" | "blockSize" | "blockCount" | "weights" | "adapters"
  >;
  readonly state: EngineState;
  /** What waits, by client. */
  readonly queue: Queue;
  stats(): EngineStats;
  /** Adds somebody to be told of all that happens from now on. */
  observe(observer: EngineObserver): void;
  /**
   * Checks that `requests` more sequences of a client, with `tokens` prompt tokens in all, may join. A full queue still
   * takes each client's fair share: those who filled it do not lock others out.
   * @throws RequestError 429 when the queue is full, 503 when the engine is draining or does not work.
   */
  checkRoom(client: string, requests: number, tokens: number): void;
  /**
   * Accepts all requests of one client or (by throwing as `checkRoom` does) none. Events come later, never from within
   * this call.
   */
  submit(requests: readonly Submitted[]): void;
  /**
   * Ends a request now and frees its blocks: with `stop` if its answer is complete, as at a stop string. False when it has
   * ended or never was.
   */
  abort(id: string, finish?: "abort" | "stop"): boolean;
  /** Refuses new requests, lets the accepted ones finish for `timeoutMs`, then ends the rest with an error. */
  drain(timeoutMs: number): Promise<void>;
}

export interface EncoderStats {
  readonly state: EngineState;
  /** Texts of the batch that runs. */
  readonly running: number;
  readonly waiting: number;
  readonly batches: number;
  readonly promptTokens: number;
  readonly accepted: number;
  readonly finished: Readonly<Record<FinishReason, number>>;
}

/** Texts that an encoder has accepted. */
export interface EncoderRun {
  /** The numbers of each text, or the RequestError that ended the request. */
  readonly done: Promise<readonly Float32Array[]>;
  cancel(): void;
}

/** An engine that reads, in this process or another. */
export interface EncoderPort {
  /** What there is to know of its runner. */
  readonly runner: Pick<EncoderRunner, "vocabSize" | "maxModelLen">;
  readonly state: EngineState;
  /** What waits, by client. */
  readonly queue: Queue;
  stats(): EncoderStats;
  /**
   * Checks that so many more texts and tokens of a client may join. A full queue still takes each client's fair share.
   * @throws RequestError 429 when the queue is full, 503 when the engine is draining or does not work.
   */
  checkRoom(client: string, texts: number, tokens: number): void;
  /** Accepts the texts of one request, none longer than `maxModelLen`, or (by throwing as `checkRoom` does) none. */
  submit(client: string, texts: readonly EncodedText[]): EncoderRun;
  /** Refuses new requests, lets the accepted ones finish for `timeoutMs`, then ends the rest with an error. */
  drain(timeoutMs: number): Promise<void>;
}
