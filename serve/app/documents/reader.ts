import { Readable } from "node:stream";
import { type Blobs, newId, type Store, type Value } from "../../store/index.ts";
import type { Handler } from "../../store/queue.ts";
import { readContained } from "../ingest/contained_read.ts";
import { Unreadable } from "../ingest/extracted.ts";
import { markdown } from "../ingest/prose.ts";
import { type Chunk, chunksOf } from "../retrieval/index.ts";
import type { Document } from "./document.ts";
import { changed } from "./library.ts";

/** Rows in one statement. */
const BATCH = 50;

/** The job `ingest`: reads a document in a process of its own and keeps its passages. It is ready when all of them are kept. */
export function ingest(store: Store, blobs: Blobs): Handler {
  return async ({ payload, user_id: userId }, { signal, report }) => {
    const { document_id: id } = payload as { document_id: string };
    const [document] = await store.all<{ name: string; blob_key: string; notice_id: string | null }>(
      "SELECT name, blob_key, notice_id FROM document WHERE id = ? AND user_id = ?",
      [id, userId],
    );
    // Deleted meanwhile.
    if (!document) return { chunks: 0 };
    const set = (changes: string, values: readonly Value[] = []) =>
      store.run(`UPDATE document SET ${changes} WHERE id = ? AND user_id = ?`, [...values, id, userId]);
    try {
      await set("state = 'reading'");
      const bytes = Readable.fromWeb((await blobs.get(document.blob_key)) as never);
      const read = await readContained(bytes, document.name, { signal });
      report(0.5);
      const chunks = chunksOf(read.blocks);
      await set("state = 'indexing', kind = ?, title = ?, pages = ?, chunks_made = ?, notes = ?, facts = ?", [
        ...[read.kind, read.title ?? null, read.pages ?? null, chunks.length],
        ...[JSON.stringify(read.notes), JSON.stringify(read.facts ?? {})],
      ]);
      const kept = await keep(store, { id, notice: document.notice_id }, userId!, chunks);
      return { chunks: kept };
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      await set("state = 'failed', reason = ?", [error.message]);
      return { chunks: 0, reason: error.message };
    }
  };
}

/** Reads a text of ours, for which there is no need of another process. */
export async function readText(
  store: Store,
  { id, notice_id: notice }: Document,
  userId: string,
  text: string,
): Promise<void> {
  const chunks = chunksOf(markdown(text));
  await store.run("UPDATE document SET kind = 'markdown', chunks_made = ? WHERE id = ?", [chunks.length, id]);
  await keep(store, { id, notice }, userId, chunks);
}

/** Replaces a document's passages; it is ready if as many are there as were made. */
async function keep(
  store: Store,
  { id, notice }: { id: string; notice: string | null },
  userId: string,
  chunks: readonly Chunk[],
): Promise<number> {
  return store.transaction(async (tx) => {
    await tx.run("DELETE FROM chunk WHERE document_id = ?", [id]);
    for (let from = 0; from < chunks.length; from += BATCH) {
      const part = chunks.slice(from, from + BATCH);
      await tx.run(
        `INSERT INTO chunk (id, document_id, user_id, ordinal, text, page, heading, start_char, end_char, tokens) VALUES ${part.map(() => "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)").join(", ")}`,
        part.flatMap((chunk): Value[] => [
          ...[newId(), id, userId, chunk.ordinal, chunk.text.replaceAll("\0", "\ufffd")],
          ...[chunk.page ?? null, chunk.heading ?? null, chunk.start, chunk.end, chunk.tokens],
        ]),
      );
    }
    const [{ kept }] = (await tx.all<{ kept: number }>(
      "SELECT count(*) AS kept FROM chunk WHERE document_id = ?",
      [id],
    )) as [{ kept: number }];
    if (kept !== chunks.length) throw new Error(`${kept} of ${chunks.length} passages were kept`);
    await tx.run("UPDATE document SET state = 'ready', reason = NULL, chunks_indexed = ? WHERE id = ?", [
      kept,
      id,
    ]);
    await changed(tx, userId, notice);
    return kept;
  });
}
