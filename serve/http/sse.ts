import type { FastifyReply } from "fastify";
import type { ServeError } from "../errors.ts";
import type { Limits } from "../limits.ts";
import { envelope } from "./errors.ts";

/**
 * Server-sent events on one response. Nothing is sent before the first event, so that a failure up to then can still be
 * an ordinary HTTP error. A client that does not read is cut off when `streamBacklogBytes` wait for it.
 */
export class SseStream {
  readonly #reply: FastifyReply;
  readonly #limits: Pick<Limits, "streamBacklogBytes" | "pingMs">;
  readonly #ping: NodeJS.Timeout;
  #opened = false;

  constructor(reply: FastifyReply, limits: Pick<Limits, "streamBacklogBytes" | "pingMs">) {
    this.#reply = reply;
    this.#limits = limits;
    this.#ping = setInterval(() => this.#write(": ping\n\n"), limits.pingMs);
    reply.raw.on("close", () => clearInterval(this.#ping));
  }

  get opened(): boolean {
    return this.#opened;
  }

  send(data: unknown): void {
    this.#ping.refresh();
    this.#write(`data: ${JSON.stringify(data)}\n\n`);
  }

  /** The regular end. */
  end(): void {
    this.#write("data: [DONE]\n\n");
    this.#close();
  }

  /** An end by failure: an error event and no [DONE], which clients would take for success. */
  fail(error: ServeError): void {
    this.#write(`data: ${JSON.stringify(envelope(error))}\n\n`);
    this.#close();
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
    if (raw.writableLength > this.#limits.streamBacklogBytes) raw.destroy();
  }

  #open(): void {
    this.#opened = true;
    this.#reply.hijack();
    this.#reply.raw.writeHead(200, {
      ...(this.#reply.getHeaders() as Record<string, string>),
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
  }

  #close(): void {
    clearInterval(this.#ping);
    if (!this.#reply.raw.destroyed) this.#reply.raw.end();
  }
}
