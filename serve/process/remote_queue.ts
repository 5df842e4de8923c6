import { RequestError } from "../engine/errors.ts";
import type { EngineState } from "../engine/port.ts";
import type { Queue, QueueSize } from "../engine/queues.ts";
import type { Order } from "./messages.ts";

/** The way to the process of the engines. */
export interface Post {
  /** Whether there is one that has all models. */
  readonly ready: boolean;
  push(order: Order): void;
}

/** The queue in another process: as it was last told, and what was sent since. */
export class RemoteQueue {
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

/** @throws RequestError where no request can be taken. */
export function assertWorks(state: EngineState): void {
  if (state === "starting")
    throw new RequestError("engine_unavailable", "the model is being started again; try again soon");
  if (state === "hung") throw new RequestError("engine_unavailable", "the model does not respond");
}

export function sumOf<Name extends string>(
  names: readonly Name[],
  a: Readonly<Record<Name, number>>,
  b: Readonly<Record<Name, number>>,
): Record<Name, number> {
  return Object.fromEntries(names.map((name) => [name, a[name] + b[name]])) as Record<Name, number>;
}

/** Resolves when nothing is open; `wait` gets what to call then. */
export async function whenEmpty(
  open: { readonly size: number },
  wait: (empty: () => void) => void,
): Promise<void> {
  if (open.size > 0) await new Promise<void>((resolve) => wait(resolve));
}
