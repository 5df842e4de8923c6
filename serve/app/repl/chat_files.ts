import { existsSync } from "node:fs";
import { KilnError } from "../../../core/errors.ts";
import { atomicWriteFile, fullPath, readText } from "../../../core/platform/files.ts";
import {
  type Conversation,
  ConversationError,
  readConversation,
  writeConversation,
} from "../../../tokenizer/index.ts";

/**
 * Writes a conversation as a line of JSON that `kiln train sft` reads, whole or not at all; returns the path. A file that is
 * there is refused unless it is `mine`.
 */
export async function saveChat(
  given: string,
  conversation: Conversation,
  mine: ReadonlySet<string>,
): Promise<string> {
  const path = fullPath(given);
  if (!/\.jsonl?$/i.test(path))
    throw new KilnError(`${given}: conversations are saved as JSON Lines; give a name that ends in .jsonl`);
  if (existsSync(path) && !mine.has(path))
    throw new KilnError(`${given} exists and was not saved in this session; give another name`);
  await atomicWriteFile(path, `${JSON.stringify(writeConversation(conversation, "openai"))}\n`);
  return path;
}

/**
 * Conversation `number`, from 1, of a file of JSON, JSON Lines or text with lines `User:` and `Assistant:`, in any format of
 * `readConversation`.
 */
export async function loadChat(given: string, number: number): Promise<Conversation> {
  const text = await readText(fullPath(given));
  const isText = /\.(txt|text|md)$/i.test(given);
  const rows: unknown[] = isText
    ? text.split("<|endoftext|>").flatMap((each) => (each.trim() === "" ? [] : [{ text: each }]))
    : parsedRows(text, given);
  if (number > rows.length)
    throw new KilnError(
      `${given} has ${rows.length} ${rows.length === 1 ? "conversation" : "conversations"}, so there is no number ${number}`,
    );
  try {
    return readConversation(rows[number - 1]);
  } catch (error) {
    if (!(error instanceof ConversationError)) throw error;
    throw new ConversationError(`${given}: ${error.message}`, error);
  }
}

/** The rows of a JSON file, which is one of them or a list, or those of JSON Lines. */
function parsedRows(text: string, path: string): unknown[] {
  try {
    return [JSON.parse(text)].flat();
  } catch {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    return lines.map((line, i) => {
      try {
        return JSON.parse(line);
      } catch (error) {
        throw new KilnError(
          `${path} is neither JSON nor JSON Lines (line ${i + 1} is none); give such a file, or a .txt with lines User: and Assistant:`,
          { code: "json_invalid", cause: error },
        );
      }
    });
  }
}
