import type { ServerEvent } from "../protocol.ts";

/** An event of one user, and the conversation that it belongs to, if any. */
export type HubListener = (event: ServerEvent, conversationId: string | null) => void;

/** Tells all connections of a user what happens to what is theirs. */
export class Hub {
  readonly #listeners = new Map<string, Set<HubListener>>();

  /** @returns a function that ends it. */
  listen(userId: string, listener: HubListener): () => void {
    const own = this.#listeners.get(userId) ?? new Set();
    this.#listeners.set(userId, own.add(listener));
    return () => {
      own.delete(listener);
      if (own.size === 0 && this.#listeners.get(userId) === own) this.#listeners.delete(userId);
    };
  }

  publish(userId: string, event: ServerEvent, conversationId: string | null): void {
    for (const listener of this.#listeners.get(userId) ?? []) listener(event, conversationId);
  }
}
