import type { IncomingMessage } from "node:http";
import type { LookupFunction } from "node:net";
import { type Clock, systemClock } from "./clock.ts";
import { baseOf, type ProviderSettings } from "./config.ts";
import { FetchGuard, unreachable } from "./fetch_guard.ts";
import { ollama } from "./ollama.ts";
import { hfInference, openai } from "./openai.ts";
import { type Dialect, DialectError, errorIn, linesOf, type Piece, type ProviderCall } from "./provider.ts";
import { Breaker, retryAfterMs, retryDelay, TokenBucket, TRANSIENT, TRIES } from "./retry.ts";
import { UpstreamError } from "./upstream_error.ts";

/** Time limits, in milliseconds. */
const LIMITS = { connect: 5000, firstToken: 60_000, betweenTokens: 30_000 };
const ERROR_CHARS = 65_536;
const ANSWER_CHARS = 2 ** 24;

export interface UpstreamOptions {
  readonly clock?: Clock;
  readonly lookup?: LookupFunction;
}

export interface AskOptions {
  readonly signal: AbortSignal;
  /** About how many tokens it will come to, for the provider's limit of them. */
  readonly tokens: number;
  /** Told before each wait for another try. */
  readonly onRetry?: (attempt: number, waitMs: number) => void;
}

/** A provider: its address, its key and what it may be asked now. */
export class Upstream {
  readonly name: string;
  readonly settings: ProviderSettings;
  readonly #key: string | null;
  readonly #clock: Clock;
  readonly #guard: FetchGuard;
  readonly #breaker: Breaker;
  readonly #bucket: TokenBucket;
  readonly #base: URL;
  readonly dialect: Dialect;

  /** @param key sent to it and to nobody else. */
  constructor(
    name: string,
    settings: ProviderSettings,
    key: string | null,
    { clock = systemClock, lookup }: UpstreamOptions = {},
  ) {
    this.name = name;
    this.settings = settings;
    this.#key = key;
    this.#clock = clock;
    this.#breaker = new Breaker(clock);
    this.#bucket = new TokenBucket(clock, settings as { rpm?: number; tpm?: number });
    this.#base = baseOf(settings);
    const { allow_private: allowPrivate, prefill } = settings;
    const guard = { name, allowPrivate, clock, connectMs: LIMITS.connect };
    this.#guard = new FetchGuard(lookup ? { ...guard, lookup } : guard);
    const speaking = { baseUrl: this.#base, prefill };
    const dialects = { openai, "hf-inference": hfInference, ollama: () => ollama };
    this.dialect = dialects[settings.dialect](speaking);
  }

  get circuit(): Breaker["state"] {
    return this.#breaker.state;
  }

  get key(): "set" | "missing" | "not needed" {
    const { key_env, key_file } = this.settings;
    return this.#key !== null ? "set" : (key_env ?? key_file) === undefined ? "not needed" : "missing";
  }

  /**
   * Asks, and again up to twice where that may help and nothing of the answer has come.
   * @throws UpstreamError: `interrupted` once text has come; the signal's reason.
   */
  async *ask(call: ProviderCall, options: AskOptions): AsyncGenerator<Piece> {
    const { signal, onRetry } = options;
    for (let tries = 1; ; tries++) {
      let began = false;
      try {
        for await (const piece of this.#try(call, options)) {
          began ||= piece.text !== undefined && piece.text !== "";
          yield piece;
        }
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof UpstreamError)) throw error;
        if (began)
          throw new UpstreamError({
            code: "interrupted",
            message: `${this.name} broke off in the middle of this answer (${error.message}): continue it`,
            transient: true,
            cause: error,
          });
        if (!error.transient || tries === TRIES) throw error;
        const waitMs = retryDelay(tries, error.retryAfterMs, this.#clock);
        onRetry?.(tries, waitMs);
        await this.#clock.sleep(waitMs, signal);
      }
    }
  }

  async *#try(call: ProviderCall, { signal, tokens }: AskOptions): AsyncGenerator<Piece> {
    await this.#turn(tokens, signal);
    const settle = this.#breaker.enter();
    if (settle === null)
      throw new UpstreamError({
        code: "upstream_open",
        message: `${this.name} has failed several times and is left alone for half a minute`,
      });
    const { path, body } = this.dialect.request(call);
    let failed: boolean | null = null;
    try {
      yield* this.#pieces(path, body, call, signal, tokens);
      failed = false;
    } catch (error) {
      // A refusal, or a limit that it keeps, is no failure.
      if (!signal.aborted && error instanceof UpstreamError)
        failed = error.transient && error.code !== "upstream_rate_limited";
      throw error;
    } finally {
      settle(failed);
    }
  }

  /** Waits for the provider's limits. @throws UpstreamError where that would take too long. */
  async #turn(tokens: number, signal: AbortSignal): Promise<void> {
    const wait = this.#bucket.take(tokens);
    if (wait <= LIMITS.firstToken) return wait > 0 ? this.#clock.sleep(wait, signal) : undefined;
    this.#bucket.giveBack(tokens);
    throw new UpstreamError({
      code: "upstream_rate_limited",
      message: `${this.name} allows no more requests or tokens for ${Math.ceil(wait / 1000)} s`,
    });
  }

  async *#pieces(
    path: string,
    body: object,
    call: ProviderCall,
    signal: AbortSignal,
    taken: number,
  ): AsyncGenerator<Piece> {
    const watch = new Watch(this.#clock, signal, this.name);
    let [finished, chars] = [false, 0];
    try {
      watch.within(LIMITS.firstToken, "no token");
      const response = await this.#send("POST", path, watch.signal, JSON.stringify(body));
      for await (const piece of this.dialect.read(linesOf(watch.body(response)), call)) {
        if (piece.text) {
          watch.within(LIMITS.betweenTokens, "no further token");
          chars += piece.text.length;
          if (chars > ANSWER_CHARS) throw new DialectError("its answer is longer than any that is taken");
        }
        if (piece.usage)
          this.#bucket.correct(taken, piece.usage.prompt_tokens + piece.usage.completion_tokens);
        finished ||= piece.finish !== undefined;
        yield piece;
      }
      if (!finished) throw unreachable(this.name, "its answer ended in the middle");
    } catch (error) {
      // Its end had come: only what else it would say of it is missing.
      if (finished && !signal.aborted) return;
      if (!(error instanceof DialectError)) throw watch.reason(error);
      throw new UpstreamError({
        code: "upstream_invalid",
        message: `${this.name}: ${this.#withoutKey(error.message)}`,
        transient: true,
        cause: error,
      });
    } finally {
      watch.end();
    }
  }

  /** The names that the provider lists; null: it has no list. @throws UpstreamError. */
  async models(signal: AbortSignal): Promise<string[] | null> {
    const { list } = this.dialect;
    if (list === null) return null;
    const watch = new Watch(this.#clock, signal, this.name);
    try {
      watch.within(LIMITS.firstToken, "no answer");
      const response = await this.#send("GET", list.path, watch.signal);
      let text = "";
      for await (const line of linesOf(watch.body(response))) text += line;
      return list.names(JSON.parse(text));
    } catch (error) {
      throw error instanceof SyntaxError || error instanceof DialectError
        ? new UpstreamError({
            code: "upstream_invalid",
            message: `${this.name}: its list of models is no JSON`,
          })
        : watch.reason(error);
    } finally {
      watch.end();
    }
  }

  async #send(
    method: "GET" | "POST",
    path: string,
    signal: AbortSignal,
    body?: string,
  ): Promise<IncomingMessage> {
    const headers: Record<string, string> = { accept: "text/event-stream, application/json" };
    if (this.#key !== null) headers.authorization = `Bearer ${this.#key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const url = new URL(path, this.#base);
    const response = await this.#guard.request(url, {
      ...{ method, headers, signal },
      ...(body === undefined ? {} : { body }),
    });
    this.#bucket.heed(response.headers);
    const { statusCode = 0 } = response;
    if (statusCode >= 200 && statusCode < 300) return response;
    throw await this.#refusal(statusCode, response);
  }

  async #refusal(status: number, response: IncomingMessage): Promise<UpstreamError> {
    let text = "";
    try {
      for await (const line of linesOf(response)) {
        text += line;
        if (text.length > ERROR_CHARS) break;
      }
    } catch {}
    const transient = TRANSIENT.has(status);
    const retry = { transient, retryAfterMs: retryAfterMs(response.headers, this.#clock.now()) };
    if (status === 401 || status === 403)
      return new UpstreamError({
        code: "upstream_key_refused",
        message: `${this.name} does not accept its key (${status})`,
      });
    const said = this.#withoutKey(saidIn(text));
    return new UpstreamError({
      code:
        status === 429 ? "upstream_rate_limited" : transient ? "upstream_unavailable" : "upstream_refused",
      message: `${this.name} answered ${status}${said === "" ? "" : `: ${said}`}`,
      ...retry,
    });
  }

  #withoutKey(text: string): string {
    const short = text.replace(/\s+/g, " ").slice(0, 200);
    return this.#key === null ? short : short.replaceAll(this.#key, "…");
  }

  close(): void {
    this.#guard.close();
  }
}

function saidIn(text: string): string {
  try {
    return errorIn(JSON.parse(text)) ?? "";
  } catch {
    return "";
  }
}

/** Ends a request for its caller, or when it is too slow. */
class Watch {
  readonly #clock: Clock;
  readonly #name: string;
  readonly #outer: AbortSignal;
  readonly #own = new AbortController();
  readonly #leave: () => void;
  #cancel = () => {};
  #late: UpstreamError | null = null;

  constructor(clock: Clock, signal: AbortSignal, name: string) {
    this.#clock = clock;
    this.#name = name;
    this.#outer = signal;
    this.#leave = () => this.#own.abort(signal.reason);
    signal.throwIfAborted();
    signal.addEventListener("abort", this.#leave, { once: true });
  }

  get signal(): AbortSignal {
    return this.#own.signal;
  }

  within(ms: number, what: string): void {
    this.#cancel();
    this.#cancel = this.#clock.after(ms, () => {
      this.#late = new UpstreamError({
        code: "upstream_timeout",
        message: `${this.#name} sent ${what} within ${ms / 1000} s`,
        transient: true,
      });
      this.#own.abort(this.#late);
    });
  }

  /** Why it really ended. */
  reason(error: unknown): unknown {
    if (this.#outer.aborted) return this.#outer.reason;
    return this.#late ?? error;
  }

  /** The bytes of a response. @throws UpstreamError where it breaks. */
  async *body(response: IncomingMessage): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of response) yield chunk as Buffer;
    } catch (error) {
      throw unreachable(this.#name, "the connection was lost", error);
    } finally {
      response.destroy();
    }
  }

  end(): void {
    this.#cancel();
    this.#outer.removeEventListener("abort", this.#leave);
  }
}
