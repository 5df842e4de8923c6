import { AppendLog } from "../../core/platform/append_log.ts";
import { logError } from "../log_error.ts";
import type { Store } from "../store/index.ts";
import { collectedOne } from "./collected.ts";

/**
 * Writes conversations whose switch for it is on, and no others, to a log in the form of `kiln data log`, each time that they are
 * added to or rated: the line with the greatest `updated_at` is what stands. Who wrote them is a pseudonym.
 */
export class ConversationLog {
  readonly #store: Store;
  readonly #path: string;
  #log: AppendLog | null = null;
  #writing: Promise<void> = Promise.resolve();

  constructor(store: Store, path: string) {
    this.#store = store;
    this.#path = path;
  }

  /** Writes what the store now has of a conversation. A log that cannot be written hurts no chat. */
  note(conversationId: string): void {
    this.#writing = this.#writing.then(() => this.#write(conversationId)).catch(logError);
  }

  async #write(conversationId: string): Promise<void> {
    // No file and no key are made before there is something to write.
    const record = await collectedOne(this.#store, conversationId, (user) => this.#open().pseudonym(user));
    if (record === null) return;
    const metadata = { ...record.metadata, updated_at: Date.now() };
    this.#open().write(JSON.stringify({ ...record, metadata }));
  }

  #open(): AppendLog {
    this.#log ??= new AppendLog(this.#path);
    return this.#log;
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#log?.close();
  }
}
