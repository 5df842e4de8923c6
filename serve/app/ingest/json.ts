import { readConversation } from "../../../tokenizer/chat/formats.ts";
import type { Block } from "../retrieval/index.ts";
import type { Extracted } from "./extracted.ts";

/** JSON or JSON a line: conversations as their turns, else every value with its path. */
export function json(text: string): Extracted {
  const values = valuesOf(text);
  const rows = values.length === 1 && Array.isArray(values[0]) ? (values[0] as unknown[]) : values;
  const conversations = rows.map(conversation);
  if (rows.length > 0 && conversations.every((turns) => turns !== null)) {
    const blocks = conversations.map(
      (turns, i): Block => ({
        text: turns!,
        heading: rows.length > 1 ? `conversation ${i + 1}` : undefined,
        kind: "table",
      }),
    );
    return { blocks, notes: [], facts: { conversations: rows.length } };
  }
  const lines = values.flatMap((value, i) => flattened(value, values.length > 1 ? `[${i}]` : ""));
  return { blocks: lines.length === 0 ? [] : [{ text: lines.join("\n"), kind: "table" }], notes: [] };
}

function valuesOf(text: string): unknown[] {
  try {
    return [JSON.parse(text)];
  } catch {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    return lines.map((line) => JSON.parse(line));
  }
}

/** A row as its turns, a line each; null: it is no conversation. */
function conversation(row: unknown): string | null {
  try {
    const { messages } = readConversation(row);
    return messages
      .map(
        ({ role, content }) =>
          `${role}: ${String(content ?? "")
            .replace(/\s+/g, " ")
            .trim()}`,
      )
      .join("\n");
  } catch {
    return null;
  }
}

/** `a.b[0]: value` of every value inside. */
function flattened(value: unknown, path: string): string[] {
  if (Array.isArray(value)) return value.flatMap((each, i) => flattened(each, `${path}[${i}]`));
  if (value !== null && typeof value === "object")
    return Object.entries(value).flatMap(([key, each]) =>
      flattened(each, path === "" ? key : `${path}.${key}`),
    );
  return value === null || value === ""
    ? []
    : [`${path === "" ? "value" : path}: ${String(value).replace(/\s+/g, " ")}`];
}
