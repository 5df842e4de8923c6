import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import type { ChatMessage } from "../../tokenizer/index.ts";
import type { ConversationRecord } from "../../train/data/conversations/index.ts";
import { storyChat } from "../../train/data/stories/grammar.ts";

/** A folder for the files of a test, gone at its end. */
export const root = mkdtempSync(join(tmpdir(), "kiln-conversations-"));
afterAll(() => rmSync(root, { recursive: true }));
export const place = (name: string) => join(root, name);

/** What the user and the assistant say in turn. */
export const turns = (...said: string[]): ChatMessage[] =>
  said.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content }));

export const record = (id: string, said: string[], metadata = {}): ConversationRecord => ({
  id,
  messages: turns(...said),
  metadata,
});

/** Sound conversations, each of its own. */
export const stories = (count: number, seed = 0): ConversationRecord[] =>
  Array.from({ length: count }, (_, i) => ({
    id: `s${i}`,
    messages: storyChat(seed, i).messages as ChatMessage[],
    metadata: {
      session_id: `session ${i % 17}`,
      created_at: 1_700_000_000_000 + i * 3_600_000,
      rating: i % 3 === 0 ? 1 : -1,
    },
  }));

/** Writes a file of rows, as JSON where they are no text. */
export function lines(name: string, rows: readonly unknown[]): string {
  const text = rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row)));
  writeFileSync(place(name), text.join("\n"));
  return place(name);
}
