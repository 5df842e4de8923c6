import { RequestError } from "./errors.ts";
import { type Client, insert, isReady, type Sequence } from "./sequence.ts";

/** Sequences, or texts, that wait and their tokens, by the name of their client. */
export type Queue = ReadonlyMap<string, QueueSize>;

export interface QueueSize {
  readonly sequences: number;
  readonly tokens: number;
}

/** Who shares the model, and what of theirs waits, in order of service. Who is served next is the scheduler's to say. */
export class ClientQueues {
  /** Clients with a sequence here, by name. */
  readonly #clients = new Map<string, Client>();

  /** How many there are. */
  get clients(): number {
    return this.#clients.size;
  }

  /** Waiting sequences that wait for another to compute their prefix. */
  get deferred(): number {
    let count = 0;
    for (const { waiting } of this.#clients.values()) count += waiting.filter((one) => !isReady(one)).length;
    return count;
  }

  sizes(): Queue {
    const sizes = new Map<string, QueueSize>();
    for (const [name, { waiting, waitingTokens: tokens }] of this.#clients)
      if (waiting.length > 0) sizes.set(name, { sequences: waiting.length, tokens });
    return sizes;
  }

  /** The client of a new sequence; `turn` is its own if it is new. */
  enter(name: string, turn: number): Client {
    let client = this.#clients.get(name);
    if (client === undefined) {
      client = { waiting: [], waitingTokens: 0, running: 0, sequences: 0, turn };
      this.#clients.set(name, client);
    }
    client.sequences++;
    return client;
  }

  /** A sequence is done, whether or not it has run. */
  leave({ client, request }: Sequence): void {
    client.sequences -= 1;
    if (client.sequences === 0) this.#clients.delete(request.client);
  }

  enqueue(sequence: Sequence): void {
    insert(sequence.client.waiting, sequence);
    sequence.client.waitingTokens += sequence.tokens.length;
  }

  unqueue(sequence: Sequence): void {
    const { client } = sequence;
    client.waiting.splice(client.waiting.indexOf(sequence), 1);
    client.waitingTokens -= sequence.tokens.length;
  }

  /** Of each client the first sequence that need not wait for another's prefix. */
  *heads(): Generator<Sequence> {
    for (const { waiting } of this.#clients.values()) {
      const one = waiting.find(isReady);
      if (one !== undefined) yield one;
    }
  }
}

/**
 * Checks that so many more of a client may join a queue. A full one still takes each client's fair share: those who filled
 * it do not lock others out. @throws RequestError 429.
 */
export function assertRoom(
  queue: Queue,
  client: string,
  more: QueueSize,
  limit: QueueSize,
  what: "requests" | "texts",
): void {
  const total = sizeOf(queue.values());
  const own = queue.get(client) ?? NOTHING;
  const others = queue.size - (queue.has(client) ? 1 : 0);
  const over = (size: QueueSize, clients: number) =>
    size.sequences + more.sequences > limit.sequences / clients ||
    size.tokens + more.tokens > limit.tokens / clients;
  if (total.sequences > 0 && over(total, 1) && over(own, others + 1))
    throw new RequestError("queue_full", `${total.sequences} ${what} are waiting already; try again later`);
}

const NOTHING: QueueSize = { sequences: 0, tokens: 0 };

/** All of a queue together. */
export function sizeOf(queue: Iterable<QueueSize>): QueueSize {
  let [sequences, tokens] = [0, 0];
  for (const one of queue) {
    sequences += one.sequences;
    tokens += one.tokens;
  }
  return { sequences, tokens };
}
