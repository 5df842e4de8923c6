import { readFile, rename } from "node:fs/promises";
import { dirname, extname, join } from "node:path";
import { setImmediate as breathe } from "node:timers/promises";
import { indexMessages, newId, type OpenStore, type Store } from "../store/index.ts";
import { AppError } from "./app_error.ts";
import type { Collected } from "./collected.ts";
import { kiln } from "./data_command.ts";
import type { ImportResult } from "./protocol.ts";

/** Bytes of a file; conversations that are written at once, so that answers go on meanwhile; rows that are named in the result. */
export const IMPORT_BYTES = 64 * 2 ** 20;
const [BATCH, NAMED] = [20, 1000];

/**
 * Adds the conversations of a file in any layout of `kiln data import` to a user's: their system prompts, turns, models and ratings.
 * They are no training data until their switch is put on. All that are sound, or, where writing fails, none.
 * @throws AppError 422 for a file without rows.
 */
export async function importFile(
  store: OpenStore,
  userId: string,
  { name, path }: { readonly name: string; readonly path: string },
): Promise<ImportResult> {
  // Its ending says what it holds.
  const ending = /^\.\w{1,10}(\.gz)?$/.test(extname(name)) ? extname(name) : "";
  const [file, out] = [`${path}${ending}`, join(dirname(path), "imported.jsonl")];
  await rename(path, file);
  const read = await kiln("data", "import", file, "--out", out, "--json").catch((error: Error) => {
    error.message = error.message.replaceAll(file, name);
    throw error;
  });
  const skipped: ImportResult["skipped"] = JSON.parse(read).faults;
  const records: Collected[] = [];
  for (const line of (await readFile(out, "utf8")).split("\n")) {
    if (line === "") continue;
    const record: Collected = JSON.parse(line, (_, value) =>
      typeof value === "string" ? kept(value) : value,
    );
    const { messages } = record;
    if (
      messages.every(
        ({ role }, i) => role === "user" || role === "assistant" || (role === "system" && i === 0),
      )
    )
      records.push(record);
    else
      skipped.push({
        ...{ row: records.length + skipped.length + 1, code: "has_tools" },
        message: `${record.id}: calls of tools are not kept in chats`,
      });
  }
  await addAll(store, userId, records);
  if (records.length === 0 && skipped.length === 0)
    throw new AppError(422, "no_conversations", `${name} is empty`, "file");
  return { conversations: records.length, skipped: skipped.sort((a, b) => a.row - b.row).slice(0, NAMED) };
}

/** A text as every store keeps it. */
const kept = (text: string) => text.replaceAll("\0", "\ufffd").replace(/\p{Surrogate}/gu, "\ufffd");

async function addAll(store: OpenStore, userId: string, records: readonly Collected[]): Promise<void> {
  const added: string[] = [];
  try {
    for (let i = 0; i < records.length; i += BATCH) {
      const some = records.slice(i, i + BATCH).map((record) => ({ id: newId(), record }));
      await store.transaction(async (tx) => {
        for (const { id, record } of some) await add(tx, userId, id, record);
      });
      added.push(...some.map(({ id }) => id));
      await breathe();
    }
  } catch (error) {
    for (const id of added) await store.run("DELETE FROM conversation WHERE id = ?", [id]);
    throw error;
  }
}

async function add(tx: Store, userId: string, id: string, { messages, metadata }: Collected): Promise<void> {
  const { title, model = null, rating, correction = null } = metadata;
  const at = Number.isSafeInteger(metadata.created_at) ? (metadata.created_at as number) : Date.now();
  const system = messages[0]!.role === "system" ? messages[0]!.content : null;
  const said = messages.slice(system === null ? 0 : 1);
  const rows = said.map(({ role, content }) => ({ id: newId(), user_id: userId, role, content }));
  const name = typeof title === "string" ? title : said[0]!.content.replace(/\s+/g, " ").slice(0, 60);
  await tx.run(
    "INSERT INTO conversation (id, user_id, title, system, leaf_id, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    [id, userId, name, system, rows.at(-1)!.id, at, at],
  );
  for (const [i, row] of rows.entries())
    await tx.run(
      "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, model, created_at) VALUES (?, ?, ?, ?, ?, ?, 'complete', ?, ?)",
      [
        ...[row.id, id, userId, rows[i - 1]?.id ?? null, row.role, row.content],
        ...[row.role === "assistant" && typeof model === "string" ? model : null, at + i],
      ],
    );
  await indexMessages(tx, rows);
  const last = rows.at(-1)!;
  if (last.role === "assistant" && (rating === 1 || rating === -1))
    await tx.run(
      "INSERT INTO feedback (id, message_id, user_id, rating, correction, created_at) VALUES (?, ?, ?, ?, ?, ?)",
      [newId(), last.id, userId, rating, typeof correction === "string" ? correction : null, at],
    );
}
