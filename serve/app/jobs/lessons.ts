import { detectChatFormat } from "../../../tokenizer/chat/formats.ts";
import type { Tokenizer } from "../../../tokenizer/index.ts";
import type { Store } from "../../store/index.ts";
import type { FileKind } from "../ingest/extracted.ts";

/** What a model is to learn from: files as they were given, and rows of conversations. */
export interface Lessons {
  /** Keys of blobs, and the endings that say how they are read. */
  readonly files: readonly { readonly key: string; readonly ending: string }[];
  /** As JSON, a line each. */
  readonly rows: readonly string[];
  readonly examples: number;
  readonly tokens: number;
}

interface DocumentRow {
  id: string;
  name: string;
  title: string | null;
  kind: FileKind;
  blob_key: string;
  facts: string;
  tokens: number;
}

interface Facts {
  readonly conversations?: number;
  readonly tables?: readonly { readonly rows: number; readonly columns: readonly { name: string }[] }[];
}

/** Tokens of a chat template and of a title's ends. */
const MARKS = 16;

/**
 * What a user's documents teach: files of conversations, and tables with a prompt and a response in each row, as they are; of all
 * others the passages, each as what follows the title of its document.
 * @param room tokens of the longest row
 */
export async function documentLessons(
  store: Store,
  userId: string,
  tokenizer: Tokenizer,
  room: number,
): Promise<Lessons> {
  const documents = await store.all<DocumentRow>(
    "SELECT d.id, d.name, d.title, d.kind, d.blob_key, d.facts, CAST(coalesce((SELECT sum(c.tokens) FROM chunk c WHERE c.document_id = d.id), 0) AS BIGINT) AS tokens FROM document d WHERE d.user_id = ? AND d.state = 'ready' ORDER BY d.id",
    [userId],
  );
  const files: { key: string; ending: string }[] = [];
  const rows: string[] = [];
  let [examples, tokens] = [0, 0];
  for (const document of documents) {
    tokens += document.tokens;
    const chats = chatsIn(document.kind, JSON.parse(document.facts) as Facts);
    if (chats > 0) {
      examples += chats;
      files.push({ key: document.blob_key, ending: document.kind });
      continue;
    }
    const passages = await passagesOf(store, document, tokenizer, room);
    examples += passages.length;
    for (const passage of passages) rows.push(passage);
  }
  return { files, rows, examples, tokens };
}

/** Conversations of a file; 0 for one that holds others things. */
function chatsIn(kind: FileKind, { conversations = 0, tables = [] }: Facts): number {
  if (kind === "json") return conversations;
  const [table] = tables;
  if (kind !== "csv" || table === undefined) return 0;
  try {
    detectChatFormat(Object.fromEntries(table.columns.map(({ name }) => [name, "[]"])));
    return table.rows;
  } catch {
    return 0;
  }
}

async function passagesOf(
  store: Store,
  { id, name, title, kind }: DocumentRow,
  tokenizer: Tokenizer,
  room: number,
): Promise<string[]> {
  const chunks = await store.all<{ text: string; start_char: number; end_char: number }>(
    "SELECT text, start_char, end_char FROM chunk WHERE document_id = ? ORDER BY ordinal",
    [id],
  );
  const called = title ?? name.replace(/\.\w{1,5}$/, "");
  const lengthOf = async (text: string) =>
    (await tokenizer.encodeUpTo(Infinity, text, { addSpecialTokens: false })).count;
  const left = Math.max(MARKS, room - MARKS - (await lengthOf(called)));
  const rows: string[] = [];
  let end = 0;
  for (const chunk of chunks) {
    // A passage begins with the end of the one before it, which is learned once.
    const text = wholeLines(chunk.text.slice(Math.max(0, end - chunk.start_char)));
    end = chunk.end_char;
    for (const content of text === "" ? [] : await fitting(text, left, lengthOf, kind === "code"))
      rows.push(JSON.stringify(exchange(called, content)));
  }
  return rows;
}

export const exchange = (question: string, answer: string) => ({
  messages: [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ],
});

/** Without the empty lines around it: the indentation of the first line is part of code. */
const wholeLines = (code: string): string => code.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();

/** A text in parts that fit, cut between words; code between lines, as far as these fit. */
async function fitting(
  text: string,
  most: number,
  lengthOf: (text: string) => Promise<number>,
  isCode = false,
): Promise<string[]> {
  if (text.length < 2 || (await lengthOf(text)) <= most) return [text];
  const middle = Math.ceil(text.length / 2);
  const inLines = isCode && text.includes("\n");
  const cut = inLines ? cutAt(text, "\n", middle) : cutAt(text, " ", middle);
  const trim = isCode ? wholeLines : (part: string) => part.trim();
  const parts = [text.slice(0, cut), text.slice(cut)].map(trim).filter((part) => part !== "");
  return (await Promise.all(parts.map((part) => fitting(part, most, lengthOf, isCode)))).flat();
}

/** Where a text is cut near a place: before the first of a letter after it, else before the last of it, else there. */
function cutAt(text: string, letter: string, place: number): number {
  const after = text.indexOf(letter, place);
  if (after > 0 && after < text.length - 1) return after;
  const before = text.lastIndexOf(letter, place);
  return before > 0 ? before : place;
}
