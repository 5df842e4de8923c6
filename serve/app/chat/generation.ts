import { citationOf, type Grounding, unsupportedBy } from "../documents/grounding.ts";
import type { AppEvent } from "../events.ts";
import type { Assigned } from "../experiments/assign.ts";
import type {
  ChatAccepted,
  ChatDelta,
  ChatDone,
  ChatError,
  ChatNotice,
  ChatSources,
  Failure,
  Usage,
} from "../protocol.ts";
import { CitationFilter } from "../retrieval/index.ts";
import {
  type Answerer,
  type AnswerRequest,
  type AnswerSource,
  LOCAL_ANSWERER,
  type Noticed,
  type RunningAnswer,
} from "./answers.ts";
import { blindly, tokensPerSecond } from "./message_rows.ts";
import { textSha256 } from "./replay.ts";

/** What followers of one answer hear: its sources, pieces of it and how it comes about, then exactly one end. */
export type AnswerEvent = ChatSources | ChatDelta | ChatNotice | ChatDone | ChatError;
export type AnswerEnd = ChatDone | ChatError;
export const isEnd = (event: AnswerEvent): event is AnswerEnd =>
  event.type === "chat.done" || event.type === "chat.error";
export type AnswerListener = (event: AnswerEvent) => void;

/** How an answer ended, as its row keeps it. */
export interface Outcome {
  /** `interrupted`: a provider broke it off, and it can be continued. */
  readonly status: "complete" | "stopped" | "error" | "interrupted";
  readonly text: string;
  readonly seq: number;
  readonly finishReason: ChatDone["finish_reason"];
  readonly usage: Usage;
  readonly by: Answerer;
  /** Of all that was written of it, also before it was continued; null: not known. */
  readonly costMicrousd: number | null;
  readonly ttftMs: number | null;
  readonly totalMs: number;
  readonly failure: Failure | null;
  /** Of an answer from documents: sentences that none of its sources has, and marks of sources that there are not. */
  readonly unsupported: readonly string[];
  readonly invalidCitations: number;
}

/** Where answers are kept. */
export interface AnswerRows {
  flush(messageId: string, text: string, seq: number): Promise<void>;
  finish(generation: Generation, outcome: Outcome): Promise<void>;
}

export const TIMES = {
  /** Between writes of an answer's row. */
  flushMs: 500,
  /** That an answer to which nobody listens goes on. */
  detachedMs: 600_000,
};

export interface GenerationOptions {
  readonly accepted: ChatAccepted;
  readonly userId: string;
  readonly request: AnswerRequest;
  /** What the row has of the answer already. */
  readonly before: {
    readonly text: string;
    readonly seq: number;
    readonly completionTokens: number;
    readonly costMicrousd: number | null;
  };
  /** What happened when it was asked for; kept with its end. */
  readonly events: readonly AppEvent[];
  /** The arm of an experiment whose model is asked instead of `accepted.model`. */
  readonly arm: Assigned | null;
  /** Whether nobody is told which model it is. */
  readonly blind: boolean;
  /** Passages that it is made from. */
  readonly sources: Grounding["sources"];
  readonly source: AnswerSource;
  readonly rows: AnswerRows;
  /** Told of every event, before followers. */
  readonly tell: AnswerListener;
  readonly times: typeof TIMES;
}

type Ending = Pick<Outcome, "status" | "finishReason"> & { readonly failure?: Failure };

/**
 * An answer that belongs to the server: it is accepted, streams, and is then complete, stopped or failed, whoever listens. Its
 * events are numbered, so that a client which lost its connection goes on after the last that it has. The row is written twice
 * a second and at the end, before the end is told.
 */
export class Generation {
  readonly options: GenerationOptions;
  /** The arm that answers, if one does. */
  arm: Assigned | null;
  /** Resolves with the event that ends it. */
  readonly ended: Promise<AnswerEnd>;
  readonly #begun = performance.now();
  readonly #followers = new Set<AnswerListener>();
  /** By event since `before`: where the text then ended. */
  readonly #ends: number[] = [];
  #text: string;
  #seq: number;
  #ttftMs: number | null = null;
  readonly #notices: ChatNotice[] = [];
  #sources: ChatSources | null = null;
  readonly #filter: CitationFilter | null;
  #running: RunningAnswer | null = null;
  #ending = false;
  #flushTimer: NodeJS.Timeout | null = null;
  #flushing: Promise<void> = Promise.resolve();
  #detached: NodeJS.Timeout | undefined;
  #settle!: (end: AnswerEnd) => void;

  constructor(options: GenerationOptions) {
    this.options = options;
    this.arm = options.arm;
    this.#text = options.before.text;
    this.#seq = options.before.seq;
    const { sources } = options;
    this.#filter = sources.length > 0 ? new CitationFilter(sources.map(({ n }) => n)) : null;
    this.ended = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  get messageId(): string {
    return this.options.accepted.message_id;
  }

  /** The number of the last event. */
  get seq(): number {
    return this.#seq;
  }

  /** Whether its end is near: it has been stopped, or written to its end, and its row is being written. */
  get ending(): boolean {
    return this.#ending;
  }

  /** Asks for the answer; everything else happens by itself. */
  begin(): void {
    this.#watchFollowers();
    const { sources } = this.options;
    if (sources.length > 0) {
      this.#sources = {
        type: "chat.sources",
        message_id: this.messageId,
        seq: this.#next(),
        citations: sources.map(citationOf),
      };
      this.#publish(this.#sources);
    }
    void this.#run();
  }

  async #run(): Promise<void> {
    const { source, request } = this.options;
    try {
      const hear = (text: string) => this.#hear(text);
      const notice = (told: Noticed) => this.#notice(told);
      const running = await source.start(request, hear, notice).catch((error) => {
        // The experiment has ended since, and its model went.
        if (this.arm === null || error?.code !== "model_not_found") throw error;
        this.arm = null;
        return source.start({ ...request, model: this.options.accepted.model }, hear, notice);
      });
      this.#running = running;
      if (this.#ending) running.stop(); // stopped while it was being asked for
      const finishReason = await running.done;
      await this.#end({ status: "complete", finishReason });
    } catch (error) {
      const failure = failureOf(error);
      const status = failure.code === "interrupted" ? "interrupted" : "error";
      await this.#end({ status, finishReason: "error", failure });
    }
  }

  /** Ends it where it is; its text so far is a normal answer. Resolves when the row is written. */
  stop(): Promise<AnswerEnd> {
    void this.#end({ status: "stopped", finishReason: "abort" });
    return this.ended;
  }

  /**
   * Calls `listener` with what came after event `after`, in one piece, and with everything from then on; a number that this
   * answer has not reached stands for 0. @returns a function that ends it.
   */
  follow(after: number, listener: AnswerListener): () => void {
    const { before } = this.options;
    const from =
      after > this.#textSeq || after < before.seq
        ? 0
        : (this.#ends[after - before.seq - 1] ?? before.text.length);
    if (this.#sources !== null && this.#sources.seq > after) listener(this.#sources);
    const noticed = this.#notices.at(-1);
    if (noticed !== undefined && noticed.seq > after && !this.options.blind) listener(noticed);
    if (from < this.#text.length) listener(this.#delta(from));
    this.#followers.add(listener);
    this.#watchFollowers();
    return () => {
      this.#followers.delete(listener);
      this.#watchFollowers();
    };
  }

  #delta(offset: number): ChatDelta {
    const text = this.#text.slice(offset);
    return { type: "chat.delta", message_id: this.messageId, seq: this.#textSeq, offset, text };
  }

  /** The number of the last piece of text: the end has the next one. */
  get #textSeq(): number {
    return this.options.before.seq + this.#ends.length;
  }

  /** How the answer came about, so far. */
  get notices(): readonly Noticed[] {
    return this.#notices.map(({ notice }) => notice);
  }

  #notice(notice: Noticed): void {
    if (this.#ending) return;
    const event: ChatNotice = { type: "chat.notice", message_id: this.messageId, seq: this.#next(), notice };
    this.#notices.push(event);
    // It would name the models.
    if (!this.options.blind) this.#publish(event);
  }

  /** The number of an event that is told now. */
  #next(): number {
    this.#ends.push(this.#text.length);
    return ++this.#seq;
  }

  #hear(given: string): void {
    if (this.#ending || given === "") return;
    this.#write(this.#filter?.hear(given) ?? given);
  }

  #write(given: string): void {
    if (given === "") return;
    const text = given.replaceAll("\0", "\ufffd"); // which not every store keeps
    const offset = this.#text.length;
    this.#ttftMs ??= performance.now() - this.#begun;
    this.#text += text;
    this.#next();
    this.#publish(this.#delta(offset));
    this.#flushTimer ??= setTimeout(() => this.#flush(), this.options.times.flushMs);
  }

  #flush(): void {
    this.#flushTimer = null;
    const { rows } = this.options;
    this.#flushing = rows.flush(this.messageId, this.#text, this.#seq).catch((error) => {
      void this.#end({ status: "error", finishReason: "error", failure: failureOf(error) });
    });
  }

  /** The first call decides. */
  async #end({ failure, ...ending }: Ending): Promise<void> {
    if (this.#ending) return;
    this.#write(this.#filter?.rest() ?? "");
    this.#ending = true;
    clearTimeout(this.#flushTimer ?? undefined);
    clearTimeout(this.#detached);
    this.#running?.stop();
    const by = this.#running?.by?.() ?? LOCAL_ANSWERER;
    const { costMicrousd: paid } = this.options.before;
    const outcome: Outcome = {
      ...ending,
      ...{ text: this.#text, seq: ++this.#seq, usage: this.#usage(), ttftMs: this.#ttftMs, by },
      costMicrousd: paid === null || by.costMicrousd === null ? null : paid + by.costMicrousd,
      ...{ totalMs: performance.now() - this.#begun, failure: failure ?? null },
      unsupported: unsupportedBy(this.options.sources, this.#text),
      invalidCitations: this.#filter?.invalid ?? 0,
    };
    await this.#flushing;
    let end: AnswerEnd;
    try {
      await this.options.rows.finish(this, outcome);
      end = failure ? this.#error(failure) : this.#done(outcome);
    } catch (error) {
      // What was flushed stays, and the next start of the server finds it interrupted.
      end = this.#error(failureOf(error));
    }
    this.#settle(end);
    this.#publish(end);
    this.#followers.clear();
  }

  #usage(): Usage {
    const none = { prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0, estimated: false };
    const usage = this.#running?.usage() ?? none;
    return { ...usage, completion_tokens: usage.completion_tokens + this.options.before.completionTokens };
  }

  #done(outcome: Outcome): ChatDone {
    const { text, seq, finishReason, usage, ttftMs, totalMs, by, costMicrousd, unsupported } = outcome;
    const { conversation_id, model: asked } = this.options.accepted;
    const { blind } = this.options;
    const [model, version] = blind ? ["", null] : [by.model ?? asked, by.modelVersion];
    return {
      ...{ type: "chat.done", message_id: this.messageId, conversation_id, seq, finish_reason: finishReason },
      ...{
        model,
        model_version: version,
        provider: blind ? "" : by.provider,
        usage,
        cost_microusd: blind ? null : costMicrousd,
        ttft_ms: ttftMs,
        total_ms: totalMs,
      },
      tokens_per_second: tokensPerSecond(usage.completion_tokens, ttftMs, totalMs),
      mean_logprob: by.meanLogprob,
      ...(unsupported.length > 0 && { unsupported: [...unsupported] }),
      text_sha256: textSha256(text),
    };
  }

  #error(failure: Failure): ChatError {
    const { request_id, conversation_id } = this.options.accepted;
    return {
      type: "chat.error",
      request_id,
      conversation_id,
      message_id: this.messageId,
      seq: this.#seq,
      ...(this.options.blind ? blindly(failure) : failure),
    };
  }

  #publish(event: AnswerEvent): void {
    this.options.tell(event);
    for (const listener of [...this.#followers]) listener(event);
  }

  #watchFollowers(): void {
    clearTimeout(this.#detached);
    if (this.#followers.size > 0 || this.#ending) return;
    this.#detached = setTimeout(() => void this.stop(), this.options.times.detachedMs);
    this.#detached.unref();
  }
}

const RETRYABLE = new Set([
  "queue_full",
  "queue_timeout",
  "engine_unavailable",
  "shutting_down",
  "store_lost",
]);

/** What a client is told of an error. Details of unexpected ones stay in the server. */
export function failureOf(error: unknown): Failure {
  const { code, message, transient } = error as { code?: unknown; message?: unknown; transient?: unknown };
  if (typeof code === "string" && typeof message === "string" && !/^(ERR_|E[A-Z]+$)/.test(code))
    return { code, message, retryable: transient === true || RETRYABLE.has(code) };
  return { code: "internal_error", message: "the server failed on this answer", retryable: false };
}
