import { createHash } from "node:crypto";
import {
  type ChatFormatName,
  type ChatTemplate,
  type Conversation,
  ConversationError,
  detectChatFormat,
  type EncodedChat,
  readConversation,
} from "../../tokenizer/index.ts";
import { type Batch, emptyBatch, IGNORE } from "./packing.ts";
import { readDocuments } from "./readers.ts";
import { readTable, type TableRow } from "./table.ts";

/** A conversation as it is learned. */
export interface ChatExample {
  /** All tokens but the last, which predicts nothing. */
  tokens: Int32Array;
  /** The next token where the assistant says it (its turn-end token included), else -100. */
  targets: Int32Array;
}

/** The conversations of files, encoded, and what was left out. */
export interface ChatData {
  examples: ChatExample[];
  /** Conversations with more tokens than a row holds. */
  tooLong: number;
  /** Conversations in which the user or the assistant says nothing: they would teach to stop at once. */
  empty: number;
  /** Tokens that are learned. */
  supervised: number;
  /** SHA-256 of the examples. */
  hash: string;
}

/** A conversation with its tokens, and its file and row for messages. */
export interface ReadChat extends EncodedChat {
  where: string;
}

/**
 * The conversations of files (JSON Lines, JSON, CSV, TSV, Parquet, or text with lines `User:` and `Assistant:`) in any format of
 * `readConversation`, the same for all rows of a file; `use` says what becomes of each.
 * @throws KilnError that names the file and row: what `readTable`, `readConversation` and `use` refuse.
 */
export async function* mapChats<T>(
  paths: readonly string[],
  use: (conversation: Conversation, where: string) => Promise<T>,
): AsyncGenerator<T> {
  for (const file of paths) {
    let format: ChatFormatName | undefined;
    for await (const { where, values } of rowsOf(file)) {
      try {
        format ??= detectChatFormat(values);
        yield await use(readConversation(values, format), where);
      } catch (error) {
        if (!(error instanceof ConversationError)) throw error;
        throw new ConversationError(`${where}: ${error.message}`, error);
      }
    }
  }
}

/** Whether a turn of the user or the assistant has no text (null reads as none), and calls no tool. */
const hasEmptyTurn = ({ messages }: Conversation) =>
  messages.some(
    ({ role, content, tool_calls = [] }) =>
      (role === "user" || role === "assistant") && content.trim() === "" && tool_calls.length === 0,
  );

/**
 * `mapChats` with what `encodeForTraining` makes of each, null where a turn is empty: it refuses a conversation without anything
 * to learn.
 */
export const readChats = (
  paths: readonly string[],
  template: ChatTemplate,
): AsyncGenerator<ReadChat | null> =>
  mapChats(paths, async (conversation, where) =>
    hasEmptyTurn(conversation) ? null : { where, ...(await template.encodeForTraining(conversation)) },
  );

/** The rows of a table of any kind, or the documents of a text file as rows with a field `text`. */
export async function* rowsOf(file: string): AsyncGenerator<TableRow> {
  if (!/\.(txt|text|md)(\.gz)?$/i.test(file)) return yield* (await readTable(file)).rows();
  let number = 0;
  let text = "";
  for await (const part of readDocuments([file])) {
    text += part.text;
    if (!part.ends) continue;
    yield { where: `${file} document ${++number}`, values: { text } };
    text = "";
  }
}

/** A conversation as it is learned. */
export function chatExample({ ids, assistantMask }: EncodedChat): ChatExample {
  const tokens = Int32Array.from(ids.slice(0, -1));
  return { tokens, targets: tokens.map((_, i) => (assistantMask[i + 1] ? ids[i + 1] : IGNORE)) };
}

/** Reads conversations into memory; those with an empty turn or more than `longest` tokens are left out and counted. */
export async function readChatData(
  paths: readonly string[],
  template: ChatTemplate,
  longest: number,
): Promise<ChatData> {
  const hash = createHash("sha256");
  const examples: ChatExample[] = [];
  let tooLong = 0;
  let empty = 0;
  let supervised = 0;
  for await (const chat of readChats(paths, template)) {
    if (!chat) {
      empty++;
      continue;
    }
    const { tokens, targets } = chatExample(chat);
    if (tokens.length > longest) {
      tooLong++;
      continue;
    }
    examples.push({ tokens, targets });
    supervised += targets.filter((id) => id !== IGNORE).length;
    hash.update(`${tokens} ${targets}\n`);
  }
  return { examples, tooLong, empty, supervised, hash: hash.digest("hex") };
}

/**
 * Packs examples whole into rows of at most `longest` tokens: the longest first, each into the fullest row where it fits
 * (best-fit decreasing, as TRL's `bfd`).
 */
export function packExamples(examples: readonly ChatExample[], longest: number): ChatExample[][] {
  const order = examples.map((_, i) => i);
  order.sort((a, b) => examples[b].tokens.length - examples[a].tokens.length || a - b);
  const rows: ChatExample[][] = [];
  /** Rows by the number of places that they have left. */
  const open: ChatExample[][][] = Array.from({ length: longest + 1 }, () => []);
  for (const i of order) {
    const size = examples[i].tokens.length;
    let left = size;
    while (left < longest && open[left].length === 0) left++;
    const row = open[left].pop() ?? [];
    if (row.length === 0) rows.push(row);
    row.push(examples[i]);
    open[left - size].push(row);
  }
  return rows;
}

/** Rows of `seqLen` tokens. Each example is a segment of its own with positions from 0, and so is the padding. */
export function chatBatch(rows: readonly (readonly ChatExample[])[], seqLen: number): Batch {
  const batch = emptyBatch(rows.length, seqLen);
  rows.forEach((examples, row) => {
    let at = row * seqLen;
    const place = (length: number, segment: number) => {
      batch.segments.fill(segment, at, at + length);
      for (let i = 0; i < length; i++) batch.positions[at + i] = i;
      at += length;
    };
    examples.forEach(({ tokens, targets }, segment) => {
      batch.tokens.set(tokens, at);
      batch.targets.set(targets, at);
      place(tokens.length, segment);
    });
    place((row + 1) * seqLen - at, examples.length);
  });
  batch.supervised = batch.targets.filter((id) => id !== IGNORE).length;
  return batch;
}

/** Batches of `rows` rows spread evenly over all, the same ones every time; the last batch is filled up with padding. */
export function* chatBatches(
  all: readonly (readonly ChatExample[])[],
  { rows, batchSize, seqLen }: { rows: number; batchSize: number; seqLen: number },
): Generator<Batch> {
  for (let first = 0; first < rows; first += batchSize) {
    const chosen = Array.from({ length: batchSize }, (_, i) =>
      first + i < rows ? all[Math.floor(((first + i + 0.5) * all.length) / rows)] : [],
    );
    yield chatBatch(chosen, seqLen);
  }
}
