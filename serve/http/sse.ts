import type { FastifyReply } from "fastify";
import type { Limits } from "../limits.ts";
import { envelope, type HttpError, ollamaError } from "./errors.ts";

type StreamLimits = Pick<Limits, "streamBacklogBytes" | "streamStallMs" | "streamMostBytes" | "pingMs">;

/** How the messages of a stream are written. */
export interface Framing {
  readonly contentType: string;
  readonly frame: (data: unknown, event?: string) => string;
  /** What clients skip, sent in silence so that proxies keep the connection; null: there is no such thing. */
  readonly ping: string | null;
  readonly errorBody: (error: HttpError) => object;
}

export const EVENTS: Framing = {
  contentType: "text/event-stream; charset=utf-8",
  frame: (data, event) =>
    `${event === undefined ? "" : `event: ${event}\n`}data: ${JSON.stringify(data)}\n\n`,
  ping: ": ping\n\n",
  errorBody: envelope,
};

/** A line of JSON for each message, as Ollama streams. */
export const LINES: Framing = {
  contentType: "application/x-ndjson",
  frame: (data) => `${JSON.stringify(data)}\n`,
  ping: null,
  errorBody: ollamaError,
};

/**
 * Server-sent events, or another framing, on one response. Nothing is sent before the first event, so that a failure up to then can still be
 * an ordinary HTTP error. A client that does not read is cut off when more than `streamBacklogBytes` have waited for
 * `streamStallMs`: a step of many choices, or the scores of a long prompt, may exceed that briefly. At `streamMostBytes` it
 * is cut off immediately, which bounds the memory that one client can take.
 */
export class SseStream {
  readonly #reply: FastifyReply;
  readonly #limits: StreamLimits;
  readonly #framing: Framing;
  readonly #ping: NodeJS.Timeout;
  /** Runs while the client is behind. */
  #stall: NodeJS.Timeout | undefined;
  #opened = false;

  constructor(reply: FastifyReply, limits: StreamLimits, framing = EVENTS) {
    this.#reply = reply;
    this.#limits = limits;
    this.#framing = framing;
    this.#ping = setInterval(() => {
      if (framing.ping !== null) this.#write(framing.ping);
    }, limits.pingMs);
    reply.raw.on("drain", () => this.#caughtUp());
    reply.raw.on("close", () => {
      clearInterval(this.#ping);
      this.#caughtUp();
    });
  }

  get opened(): boolean {
    return this.#opened;
  }

  send(data: unknown, event?: string): void {
    this.#ping.refresh();
    this.#write(this.#framing.frame(data, event));
  }

  /** The regular end of completions. */
  end(): void {
    this.#write("data: [DONE]\n\n");
    this.close();
  }

  /** Ends with an error event and without [DONE], which clients would take for success. */
  fail(error: HttpError): void {
    this.#write(this.#framing.frame(this.#framing.errorBody(error)));
    this.close();
  }

  /** Stops the timer of a stream that never opened. */
  dispose(): void {
    clearInterval(this.#ping);
  }

  #write(text: string): void {
    const { raw } = this.#reply;
    if (raw.destroyed || raw.writableEnded) return;
    if (!this.#opened) this.#open();
    raw.write(text);
    const { streamBacklogBytes, streamStallMs, streamMostBytes } = this.#limits;
    if (raw.writableLength > streamMostBytes) {
      raw.destroy();
      return;
    }
    const isBehind = () => raw.writableLength > streamBacklogBytes;
    if (this.#stall !== undefined || !isBehind()) return;
    this.#stall = setTimeout(() => {
      this.#caughtUp();
      if (isBehind()) raw.destroy();
    }, streamStallMs);
  }

  #caughtUp(): void {
    clearTimeout(this.#stall);
    this.#stall = undefined;
  }

  #open(): void {
    this.#opened = true;
    this.#reply.hijack();
    this.#reply.raw.writeHead(200, {
      ...(this.#reply.getHeaders() as Record<string, string>),
      "content-type": this.#framing.contentType,
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
  }

  /** The end of protocols whose last event says that it is the last. */
  close(): void {
    clearInterval(this.#ping);
    if (!this.#reply.raw.destroyed) this.#reply.raw.end();
  }
}
