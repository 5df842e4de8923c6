import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Clock } from "../../serve/app/providers/clock.ts";
import type { ProviderSettings } from "../../serve/app/providers/config.ts";

/** A request as the server got it. */
export interface Seen {
  method: string;
  url: string;
  headers: IncomingHttpHeaders;
  body: Record<string, unknown>;
}

export type Answer = (response: ServerResponse, request: Seen) => unknown;

/** A provider on loopback that does what the test says, one answer a request; the last one for all that follow. */
export class FaultProvider {
  readonly seen: Seen[] = [];
  answers: Answer[] = [];
  readonly #server: Server;

  private constructor() {
    this.#server = createServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const text = Buffer.concat(chunks).toString();
      const { method = "", url = "", headers } = request;
      const seen = { method, url, headers, body: text === "" ? {} : JSON.parse(text) };
      this.seen.push(seen);
      const answer = this.answers.length > 1 ? this.answers.shift()! : this.answers[0]!;
      await answer(response, seen);
    });
  }

  static async start(): Promise<FaultProvider> {
    const provider = new FaultProvider();
    await new Promise<void>((resolve) => provider.#server.listen(0, "127.0.0.1", resolve));
    return provider;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  settings(more: Partial<ProviderSettings> = {}): ProviderSettings {
    return {
      ...{
        dialect: "openai",
        base_url: `http://127.0.0.1:${this.port}/v1`,
        allow_private: true,
        prefill: false,
      },
      ...{ models: { far: { task: "chat", context_length: 1000, fallback: [], prices: [] } } },
      ...more,
    };
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** Time that passes when the test says so, and at once where somebody sleeps. */
export class VirtualClock implements Clock {
  readonly waits: number[] = [];
  readonly #timers = new Set<{ at: number; call: () => void }>();
  #now = Date.UTC(2026, 0, 1);
  random = () => 0.5;
  now = () => this.#now;

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.waits.push(ms);
    this.advance(ms);
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  advance(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers])
      if (timer.at <= this.#now) {
        this.#timers.delete(timer);
        timer.call();
      }
  }
}

export const status =
  (code: number, body: object = {}, headers: Record<string, string> = {}): Answer =>
  (response) =>
    response.writeHead(code, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));

const usage = { prompt_tokens: 11, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } };

/** The bytes of an answer in OpenAI's form. */
export function eventsOf(
  pieces: readonly string[],
  more: { usage?: object | null; finish?: string } = {},
): string {
  const chunk = (delta: object, finish_reason: string | null = null) =>
    `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
  const told = more.usage === undefined ? usage : more.usage;
  return [
    ...pieces.map((content) => chunk({ content })),
    chunk({}, more.finish ?? "stop"),
    ...(told === null ? [] : [`data: ${JSON.stringify({ choices: [], usage: told })}\n\n`]),
    "data: [DONE]\n\n",
  ].join("");
}

export const says =
  (...pieces: string[]): Answer =>
  (response) =>
    response.writeHead(200, { "content-type": "text/event-stream" }).end(eventsOf(pieces));

/** Sends the first bytes, and breaks the connection. */
export const cutAfter =
  (text: string, bytes: number): Answer =>
  async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    await new Promise<void>((resolve) =>
      response.write(Buffer.from(text).subarray(0, bytes), () => resolve()),
    );
    response.destroy();
  };
