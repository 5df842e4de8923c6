import { KilnError } from "../../../core/errors.ts";
import { isObject } from "../../../core/platform/files.ts";
import {
  type ChatMessage,
  type Conversation,
  ConversationError,
  type Row,
  readConversation,
  writeConversation,
} from "../../../tokenizer/index.ts";
import type { ConversationRecord } from "./record.ts";
import { type Fault, validateConversations } from "./validate.ts";

/** Rows to train on, one JSON object a line. */
export const trainingFormats = ["openai", "chatml", "alpaca", "instruction", "sharegpt", "jsonl"] as const;
export type TrainingFormat = (typeof trainingFormats)[number];

/** What becomes a row: the whole conversation, it up to its last answer, or it up to each answer. */
export const pairModes = ["whole_dialogue", "last_turn", "every_turn"] as const;
export type PairMode = (typeof pairModes)[number];

export interface PairOptions {
  /** Default: `whole_dialogue`. In `openai` and `jsonl` the other modes learn the last answer of a row alone (`weight` 0). */
  mode?: PairMode;
  /** Told of each conversation that the format cannot hold, and why; without it such a conversation is an error. */
  skip?: (id: string, why: string) => void;
}

/** A conversation as a row of a format. Throws ConversationError if the format cannot hold it. */
function formatRow(record: ConversationRecord, format: TrainingFormat): Row {
  const { id, messages, tools, metadata } = record;
  const said: Conversation = { messages, ...(tools && { tools }) };
  if (format === "jsonl") return { id, ...writeConversation(said, "openai"), metadata };
  if (format === "sharegpt") return writeConversation({ ...said, metadata: { id } }, "sharegpt");
  const row = writeConversation(said, format);
  return format === "alpaca" ? { system: "", history: [], ...row } : row;
}

/** Turns conversations into rows to train on. */
export class TrainingDataFormatter {
  readonly format: TrainingFormat;

  /** @throws KilnError for a format that is none of `trainingFormats`. */
  constructor(format: TrainingFormat = "openai") {
    if (!trainingFormats.includes(format))
      throw new KilnError(`there is no training format ${format}; there is ${trainingFormats.join(", ")}`);
    this.format = format;
  }

  /** @throws ConversationError for a conversation that the format cannot hold, unless `skip` is given. */
  createTrainingPairs(
    list: readonly ConversationRecord[],
    { mode = "whole_dialogue", skip }: PairOptions = {},
  ): Row[] {
    return list.flatMap((record) => {
      try {
        return this.#parts(record, mode).map((messages) => formatRow({ ...record, messages }, this.format));
      } catch (error) {
        if (!(error instanceof ConversationError)) throw error;
        if (!skip) throw new ConversationError(`${record.id}: ${error.message}`, error);
        skip(record.id, error.message);
        return [];
      }
    });
  }

  /** Everything that is wrong with rows of this format, with the number of the row. */
  validate(rows: Iterable<unknown>): Fault[] {
    const unread = new Map<number, Fault>();
    const read = Array.from(rows, (value, i) => {
      if (!isObject(value) || Array.isArray(value.messages)) return value;
      try {
        const format = this.format === "jsonl" ? "openai" : this.format;
        return { id: value.id, messages: readConversation(value, format).messages };
      } catch (error) {
        const { message } = error as Error;
        const code = isObject(value) && /is empty|at least one/.test(message) ? "empty_content" : "bad_row";
        unread.set(i + 1, { row: i + 1, path: "", code, message });
        return null;
      }
    });
    // One list of faults in the order of the rows: a row that could not be read has its own alone.
    return validateConversations(read).map((fault) => unread.get(fault.row) ?? fault);
  }

  #parts({ messages }: ConversationRecord, mode: PairMode): ChatMessage[][] {
    if (mode === "whole_dialogue") return [messages];
    const answers = messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : []));
    const hasWeights = this.format === "openai" || this.format === "jsonl";
    return answers
      .slice(mode === "last_turn" ? -1 : 0)
      .map((last) =>
        messages
          .slice(0, last + 1)
          .map((message, i) =>
            hasWeights && message.role === "assistant" && i < last
              ? { ...message, weight: 0 as const }
              : message,
          ),
      );
  }
}

/**
 * Better and worse answers to the same prompt: an answer with a `correction`, and answers of other conversations that were rated
 * up and down after the same turns.
 */
export function preferenceRows(list: readonly ConversationRecord[]): Row[] {
  const rated = new Map<string, { up: ChatMessage[]; down: ChatMessage[] }>();
  const row = (prompt: readonly ChatMessage[], chosen: string, rejected: string) => ({
    prompt,
    chosen: [{ role: "assistant", content: chosen }],
    rejected: [{ role: "assistant", content: rejected }],
  });
  const rows: Row[] = [];
  for (const { messages, metadata } of list) {
    const answer = messages.at(-1);
    if (answer?.role !== "assistant" || answer.content === "") continue;
    const prompt = messages.slice(0, -1);
    const { rating, correction } = metadata;
    if (typeof correction === "string" && correction.trim() !== "" && correction !== answer.content)
      rows.push(row(prompt, correction, answer.content));
    const key = JSON.stringify(prompt);
    const sides = rated.get(key) ?? { up: [], down: [] };
    rated.set(key, sides);
    if (rating === 1) sides.up.push(answer);
    if (rating === -1) sides.down.push(answer);
  }
  for (const [key, { up, down }] of rated)
    for (let i = 0; i < Math.min(up.length, down.length); i++)
      if (up[i].content !== down[i].content) rows.push(row(JSON.parse(key), up[i].content, down[i].content));
  return rows;
}
