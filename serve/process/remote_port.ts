import { RequestError, shuttingDown, unresponsive } from "../engine/errors.ts";
import type { EngineState } from "../engine/port.ts";
import { assertRoom, type Queue, type QueueSize } from "../engine/queues.ts";
import type { FinishReason } from "../engine/types.ts";
import { within } from "../engine/watchdog.ts";
import type { Limits } from "../limits.ts";
import type { Order } from "./messages.ts";

/** The way to the process of the engines. */
export interface Post {
  /** Whether there is one that has all models. */
  readonly ready: boolean;
  push(order: Order): void;
}

/** The queue in another process: as it was last told, and what was sent since. */
class RemoteQueue {
  #told: Queue = new Map();
  /** What the process had not seen when it told that. */
  #sent: { readonly turn: number; readonly client: string; readonly size: QueueSize }[] = [];
  #turns = 0;

  get sizes(): Queue {
    if (this.#sent.length === 0) return this.#told;
    const sizes = new Map(this.#told);
    for (const { client, size } of this.#sent) {
      const { sequences, tokens } = sizes.get(client) ?? { sequences: 0, tokens: 0 };
      sizes.set(client, { sequences: sequences + size.sequences, tokens: tokens + size.tokens });
    }
    return sizes;
  }

  /** Notes something that is sent; returns which it is. */
  add(client: string, size: QueueSize): number {
    const turn = ++this.#turns;
    this.#sent.push({ turn, client, size });
    return turn;
  }

  take(queue: Queue, seen: number): void {
    this.#told = queue;
    this.#sent = this.#sent.filter(({ turn }) => turn > seen);
  }

  clear(): void {
    this.#told = new Map();
    this.#sent = [];
  }
}

/**
 * An engine in another process, which may end at any moment: then all its requests end with an error, and a new process goes
 * on with the same port. `Entry` is what is known here of a request, by its `Key`; `Told` what the process tells of the engine.
 */
export abstract class RemotePort<Key, Entry, Told extends { readonly state: EngineState }> {
  protected readonly post: Post;
  protected readonly model: string;
  protected readonly entries = new Map<Key, Entry>();
  protected readonly finished: Record<FinishReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };
  /** What the process said last. */
  protected last: Told;
  protected accepted = 0;
  readonly #idle: Told;
  readonly #queue = new RemoteQueue();
  /** How much of what may wait. */
  readonly #most: QueueSize & { readonly what: "requests" | "texts" };
  #draining = false;
  #empty: (() => void) | null = null;

  constructor(
    { model, post, limits }: RemoteOptions,
    { idle, what }: { idle: Told; what: "requests" | "texts" },
  ) {
    this.model = model;
    this.post = post;
    this.#idle = idle;
    this.last = idle;
    const { queuedRequests, queuedTexts, queuedTokens: tokens } = limits;
    this.#most = { sequences: what === "requests" ? queuedRequests : queuedTexts, tokens, what };
  }

  get state(): EngineState {
    if (this.#draining) return "draining";
    return this.post.ready ? this.last.state : "starting";
  }

  get queue(): Queue {
    return this.#queue.sizes;
  }

  /** @throws RequestError where no request, or none of this size, can be taken. */
  checkRoom(client: string, sequences: number, tokens: number): void {
    if (this.#draining) throw shuttingDown();
    if (this.state === "starting")
      throw new RequestError("engine_unavailable", "the model is being started again; try again soon");
    if (this.state === "hung") throw unresponsive();
    assertRoom(this.queue, client, { sequences, tokens }, this.#most, this.#most.what);
  }

  /** Lets what runs finish for `timeoutMs`, then ends the rest with an error. */
  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    const empty = new Promise<void>((resolve) => {
      this.#empty = resolve;
      if (this.entries.size === 0) resolve();
    });
    await within(empty, timeoutMs);
    this.cutOff();
  }

  /** The process has ended: so do all requests. */
  lose(error: RequestError): void {
    this.addUp();
    this.last = this.#idle;
    this.#queue.clear();
    this.failAll(error);
  }

  /** Notes requests that are sent; returns which turn it is. */
  protected send(client: string, size: QueueSize): number {
    this.checkRoom(client, size.sequences, size.tokens);
    return this.#queue.add(client, size);
  }

  protected hear(last: Told, queue: Queue, seen: number): void {
    this.last = last;
    this.#queue.take(queue, seen);
  }

  /** The only place that ends a request: what was known of it, or undefined for one that has ended. */
  protected close(key: Key, finish: FinishReason): Entry | undefined {
    const entry = this.entries.get(key);
    if (!this.entries.delete(key)) return undefined;
    this.finished[finish]++;
    return entry;
  }

  /** To be called when the client of a request that was closed has been told. */
  protected closed(): void {
    if (this.entries.size === 0) this.#empty?.();
  }

  /** Ends what runs, here and over there. */
  protected abstract cutOff(): void;
  /** Ends what runs, here. */
  protected abstract failAll(error: RequestError): void;
  /** Keeps what a process counted that has ended. */
  protected abstract addUp(): void;
}

export interface RemoteOptions {
  /** What the process calls the model. */
  readonly model: string;
  readonly post: Post;
  readonly limits: Limits;
}
