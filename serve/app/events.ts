import { newId, type Store } from "../store/index.ts";

/** What happens in conversations. Of jobs and documents come more. */
export type EventKind =
  | "session_start"
  | "message_sent"
  | "model_switch"
  | "answer_started"
  | "answer_done"
  | "answer_stopped"
  | "answer_continued"
  | "error"
  | "fallback"
  | "regenerate"
  | "edit"
  | "feedback"
  | "vote";

/** A row of `event`. It never holds what was said. */
export interface AppEvent {
  readonly kind: EventKind;
  readonly at: number;
  readonly userId: string;
  readonly sessionId?: string | null;
  readonly conversationId?: string | null;
  readonly messageId?: string | null;
  readonly model?: string | null;
  readonly arm?: string | null;
  /** The number that the kind is about: milliseconds to the first text, a rating. */
  readonly value?: number | null;
  readonly data?: object;
}

/** Writes events, with one statement. */
export async function recordEvents(tx: Store, events: readonly AppEvent[]): Promise<void> {
  if (events.length === 0) return;
  const row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
  await tx.run(
    `INSERT INTO event (at, user_id, session_id, kind, conversation_id, message_id, model, experiment_arm, value, data) VALUES ${events.map(() => row).join(", ")}`,
    events.flatMap((event) => [
      ...[event.at, event.userId, event.sessionId ?? null, event.kind, event.conversationId ?? null],
      ...[event.messageId ?? null, event.model ?? null, event.arm ?? null, event.value ?? null],
      event.data === undefined ? null : JSON.stringify(event.data),
    ]),
  );
}

/** Messages of one user with less than this between two of them are one session. */
export const SESSION_GAP_MS = 30 * 60_000;

/** The sessions of users, as messages come. */
export class Sessions {
  readonly #store: Store;
  readonly #last = new Map<string, { id: string; at: number }>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** The session that a message of this moment belongs to, and whether it begins it. */
  async at(userId: string, now: number): Promise<{ id: string; begins: boolean }> {
    const last = this.#last.get(userId) ?? (await this.#stored(userId));
    const goesOn = last !== null && now - last.at < SESSION_GAP_MS;
    const id = goesOn ? last.id : newId();
    this.#last.set(userId, { id, at: now });
    return { id, begins: !goesOn };
  }

  /** Of an earlier run of the server, or of another one. */
  async #stored(userId: string): Promise<{ id: string; at: number } | null> {
    const [found] = await this.#store.all<{ id: string; at: number }>(
      "SELECT session_id AS id, at FROM event WHERE user_id = ? AND kind = 'message_sent' ORDER BY at DESC LIMIT 1",
      [userId],
    );
    return found ?? null;
  }
}
