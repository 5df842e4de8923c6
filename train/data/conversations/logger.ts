import { randomUUID } from "node:crypto";
import { statSync } from "node:fs";
import { AppendLog, type AppendLogOptions, logFiles } from "../../../core/platform/append_log.ts";
import { textIfPresent } from "../../../core/platform/files.ts";
import { checkConversation } from "../../../tokenizer/index.ts";
import type { ConversationMetadata, ConversationRecord } from "./record.ts";
import { type ConversationStatistics, conversationStatistics } from "./statistics.ts";

export type LoggerOptions = AppendLogOptions;

/**
 * An append-only log of conversations, one JSON object a line. Several processes may share a file: each line is one write.
 * What a power cut left of a last line is moved to `FILE.torn`. User ids become pseudonyms by a key in the folder of the log.
 */
export class ConversationLogger {
  readonly path: string;
  readonly #log: AppendLog;

  /** @throws KilnError for a file that cannot be written. */
  constructor(path: string, options: LoggerOptions = {}) {
    this.path = path;
    this.#log = new AppendLog(path, options);
  }

  /** Logs a question and its answer; returns the id of the conversation. Throws a KilnError where it cannot be written. */
  log(user: string, assistant: string, metadata: ConversationMetadata = {}): string {
    return this.logConversation({
      messages: [
        { role: "user", content: user },
        { role: "assistant", content: assistant },
      ],
      metadata,
    });
  }

  /** Logs a whole conversation; `created_at` and an id are added where it has none. Throws as `log`, or ConversationError. */
  logConversation(
    conversation: Omit<ConversationRecord, "id" | "metadata"> & Partial<ConversationRecord>,
  ): string {
    const { id = randomUUID(), messages, tools, metadata = {} } = conversation;
    checkConversation({ messages, ...(tools && { tools }), metadata });
    const { user_id: user } = metadata;
    const known = {
      ...metadata,
      ...(user !== undefined && { user_id: this.#log.pseudonym(String(user)) }),
      created_at: metadata.created_at ?? Date.now(),
    };
    this.#log.write(JSON.stringify({ id, messages, ...(tools && { tools }), metadata: known }));
    return id;
  }

  /** `log` and `logConversation` under Python's name. */
  log_conversation(user: string, assistant: string, metadata?: ConversationMetadata): string {
    return this.log(user, assistant, metadata);
  }

  /** Counts all that was logged, also by other processes and in files put aside. `torn_lines`: those moved to `FILE.torn`. */
  async getConversationStats(): Promise<ConversationStatistics & { torn_lines: number }> {
    const { importConversations } = await import("./importer.ts");
    const files = logFiles(this.path).filter((file) => statSync(file).size > 0);
    const { records } = files.length === 0 ? { records: [] } : await importConversations(files);
    const torn = textIfPresent(`${this.path}.torn`)?.trimEnd().split("\n").length ?? 0;
    return { ...conversationStatistics(records), torn_lines: torn };
  }

  /** `getConversationStats` under Python's name. */
  get_conversation_stats(): ReturnType<ConversationLogger["getConversationStats"]> {
    return this.getConversationStats();
  }

  /** Forces the last lines to the disk and waits for files that are being packed. */
  close(): Promise<void> {
    return this.#log.close();
  }
}
