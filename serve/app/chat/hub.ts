import type { ServerEvent } from "../protocol.ts";

/** An event of one user, and the conversation that it belongs to, if any. */
export type HubListener = (event: ServerEvent, conversationId: string | null) => void;

/** A connection that came with a key, and what ends it where that is revoked. */
interface Keyed {
  readonly keyId: string | null;
  end(): void;
}

/** Tells all connections of a user what happens to what is theirs. */
export class Hub {
  readonly #listeners = new Map<string, Map<HubListener, Keyed | null>>();

  /** @returns a function that ends it. */
  listen(userId: string, listener: HubListener, keyed: Keyed | null = null): () => void {
    const own = this.#listeners.get(userId) ?? new Map();
    this.#listeners.set(userId, own.set(listener, keyed));
    return () => {
      own.delete(listener);
      if (own.size === 0 && this.#listeners.get(userId) === own) this.#listeners.delete(userId);
    };
  }

  /** How many connections of a user there are. */
  connections(userId: string): number {
    return this.#listeners.get(userId)?.size ?? 0;
  }

  publish(userId: string, event: ServerEvent, conversationId: string | null): void {
    for (const listener of this.#listeners.get(userId)?.keys() ?? []) listener(event, conversationId);
  }

  /** Tells all users. */
  broadcast(event: ServerEvent): void {
    for (const userId of this.#listeners.keys()) this.publish(userId, event, null);
  }

  /** Tells all users, each what is so for them. */
  async broadcastEach(eventFor: (userId: string) => Promise<ServerEvent>): Promise<void> {
    for (const userId of [...this.#listeners.keys()]) this.publish(userId, await eventFor(userId), null);
  }

  /** Ends the connections of a user that came with a key, or all. */
  end(userId: string, keyId?: string): void {
    for (const keyed of this.#listeners.get(userId)?.values() ?? [])
      if (keyed !== null && (keyId === undefined || keyed.keyId === keyId)) keyed.end();
  }
}
