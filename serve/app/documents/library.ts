import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { type Blobs, newId, type Store } from "../../store/index.ts";
import type { Queue } from "../../store/queue.ts";
import { AppError, notFound } from "../app_error.ts";
import type { DocumentList } from "../protocol.ts";
import { COLUMNS, type Document, type DocumentRow, documentOf, type Passage } from "./document.ts";
import { documentLimits as limits } from "./limits.ts";

/** Where documents are kept, and who reads them. */
export interface Shelves {
  readonly store: Store;
  readonly blobs: Blobs;
  readonly queue: Queue;
}

/**
 * The documents of one user, or of a notice of theirs: the only way to their rows and bytes. What belongs to a notice, everybody reads.
 */
export class Library {
  readonly #store: Store;
  readonly #blobs: Blobs;
  readonly #queue: Queue;
  readonly #userId: string;
  readonly #noticeId: string | null;

  constructor({ store, blobs, queue }: Shelves, userId: string, noticeId: string | null = null) {
    this.#store = store;
    this.#blobs = blobs;
    this.#queue = queue;
    this.#userId = userId;
    this.#noticeId = noticeId;
  }

  /**
   * Keeps a file and has it read. The same bytes again are the document that is there already, with the name that it had; one that
   * failed is read once more.
   * @param isText of a text that its caller reads at once (reader.ts): it counts for no limit
   * @throws AppError 413 beyond the limits, before anything is kept; 422 of an empty file
   */
  async add(
    name: string,
    content: AsyncIterable<Uint8Array>,
    isText = false,
  ): Promise<{ document: Document; isNew: boolean; job_id: string | null }> {
    const folder = await mkdtemp(path.join(tmpdir(), "kiln-upload-"));
    try {
      const file = path.join(folder, "file");
      const { bytes, sha256 } = await received(content, file);
      if (bytes === 0) throw new AppError(422, "empty_file", `${shown(name)} is empty`, "file");
      // A notice has its own, whoever keeps the same bytes besides.
      const named = this.#noticeId === null ? sha256 : `${sha256}.${this.#noticeId}`;
      const known = await this.#bySha(named);
      if (known && known.state !== "failed") return { document: known, isNew: false, job_id: null };
      if (!known && !isText) await this.#checkRoom(bytes);
      const key = this.#key(named);
      await this.#blobs.put(key, createReadStream(file), { sha256 });
      const id = known?.id ?? (await this.#insert(shown(name), bytes, named, key));
      const job_id = isText ? null : await this.#enqueue(id);
      return { document: await this.get(id), isNew: true, job_id };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** The newest first. */
  async list(limit: number): Promise<DocumentList> {
    const rows = await this.#store.all<DocumentRow>(
      `SELECT ${COLUMNS} FROM document WHERE user_id = ? AND COALESCE(notice_id, '') = ? ORDER BY created_at DESC, id DESC LIMIT ?`,
      [this.#userId, this.#noticeId ?? "", limit],
    );
    return { documents: rows.map(documentOf), bytes: (await this.#room()).bytes, limits };
  }

  async get(id: string): Promise<Document> {
    return documentOf(await this.#row(id, " OR notice_id IS NOT NULL"));
  }

  /** @param or who may besides its owner */
  async #row(id: string, or = ""): Promise<DocumentRow & { blob_key: string }> {
    const [row] = await this.#store.all<DocumentRow & { blob_key: string }>(
      `SELECT ${COLUMNS}, blob_key FROM document WHERE id = ? AND (user_id = ?${or})`,
      [id, this.#userId],
    );
    if (!row) throw notFound("document");
    return row;
  }

  /** The passages of a document, in order. */
  async passages(id: string, limit: number, after: number): Promise<Passage[]> {
    await this.get(id);
    return this.#store.all<Passage>(
      "SELECT id, document_id, ordinal, text, page, heading, start_char, end_char FROM chunk WHERE document_id = ? AND ordinal > ? ORDER BY ordinal LIMIT ?",
      [id, after, limit],
    );
  }

  /** The bytes of a document as they were given. */
  async content(id: string): Promise<{ document: Document; stream: ReadableStream<Uint8Array> }> {
    const { blob_key, ...row } = await this.#row(id, " OR notice_id IS NOT NULL");
    return { document: documentOf(row), stream: await this.#blobs.get(blob_key) };
  }

  /** Removes a document with its passages and bytes. Citations of it stay as they were said. */
  async remove(id: string): Promise<void> {
    const { blob_key, notice_id } = await this.#row(id);
    await this.#store.transaction(async (tx) => {
      await tx.run("DELETE FROM document WHERE user_id = ? AND id = ?", [this.#userId, id]);
      await changed(tx, this.#userId, notice_id);
    });
    await this.#blobs.delete(blob_key);
  }

  /** Removes all of a user's documents, and says how many. */
  async clear(): Promise<{ document: number; chunk: number; blob: number }> {
    const of = [this.#userId];
    const counts = await this.#store.transaction(async (tx) => {
      const chunk = await tx.run("DELETE FROM chunk WHERE user_id = ?", of);
      const document = await tx.run("DELETE FROM document WHERE user_id = ?", of);
      // Counted on and not from the start, so that no index in memory is taken for a later one.
      await changed(tx, this.#userId, null);
      await changed(tx, this.#userId, "every notice of theirs");
      return { document, chunk };
    });
    let blob = 0;
    for await (const { key } of this.#blobs.list(this.#key(""))) if (await this.#blobs.delete(key)) blob++;
    return { ...counts, blob };
  }

  async #bySha(sha256: string): Promise<Document | null> {
    const [row] = await this.#store.all<DocumentRow>(
      `SELECT ${COLUMNS} FROM document WHERE user_id = ? AND sha256 = ?`,
      [this.#userId, sha256],
    );
    return row ? documentOf(row) : null;
  }

  async #room(): Promise<{ documents: number; bytes: number }> {
    const [row] = await this.#store.all<{ documents: number; bytes: number | null }>(
      "SELECT count(CASE WHEN notice_id IS NULL THEN 1 END) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes FROM document WHERE user_id = ?",
      [this.#userId],
    );
    return { documents: row!.documents, bytes: row!.bytes ?? 0 };
  }

  async #checkRoom(more: number): Promise<void> {
    const { documents, bytes } = await this.#room();
    if (documents >= limits.documents)
      throw tooMuch(
        `there are ${documents} documents already, the most that one person may keep: delete some first`,
      );
    if (bytes + more > limits.allBytes)
      throw tooMuch(
        `${megabytes(bytes)} of ${megabytes(limits.allBytes)} are used, and this file has ${megabytes(more)}: delete documents first`,
      );
  }

  async #insert(name: string, bytes: number, sha256: string, key: string): Promise<string> {
    const id = newId();
    await this.#store.run(
      "INSERT INTO document (id, user_id, notice_id, name, bytes, sha256, blob_key, state, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?) ON CONFLICT (user_id, sha256) DO NOTHING",
      [id, this.#userId, this.#noticeId, name, bytes, sha256, key, Date.now()],
    );
    return (await this.#bySha(sha256))!.id;
  }

  async #enqueue(id: string): Promise<string> {
    await this.#store.run(
      "UPDATE document SET state = 'queued', reason = NULL WHERE user_id = ? AND id = ?",
      [this.#userId, id],
    );
    return this.#queue.add({
      ...{ kind: "ingest", userId: this.#userId, payload: { document_id: id } },
      ...{ dedupeKey: `ingest ${id}`, maxAttempts: 2 },
    });
  }

  #key(sha256: string): string {
    return blobKey(this.#userId, sha256);
  }
}

/** Where a user's bytes are: names of users may hold what no key may. */
export const blobKey = (userId: string, name: string): string =>
  `users/${createHash("sha256").update(userId).digest("hex").slice(0, 32)}/${name}`;

/** Says that the passages of a user are others now, or those of a notice, which everybody searches. */
export async function changed(tx: Store, userId: string, noticeId: string | null): Promise<void> {
  if (noticeId !== null) {
    await tx.run(
      "INSERT INTO shared_index (id, version) VALUES ('notices', 1) ON CONFLICT (id) DO UPDATE SET version = shared_index.version + 1",
    );
    return;
  }
  await tx.run(
    "INSERT INTO index_state (user_id, version) VALUES (?, 1) ON CONFLICT (user_id) DO UPDATE SET version = index_state.version + 1",
    [userId],
  );
}

const megabytes = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`;
const tooMuch = (message: string) => new AppError(413, "quota_exceeded", message, "file");
/** A name to be shown: no path, no control signs. */
const shown = (name: string) =>
  name
    .split(/[\\/]/)
    .at(-1)!
    .replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "")
    .trim()
    .slice(0, limits.nameChars) || "file";

/** Writes what comes to a file. @throws AppError 413 as soon as there is too much. */
async function received(
  content: AsyncIterable<Uint8Array>,
  file: string,
): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash("sha256");
  let bytes = 0;
  const counted = async function* (source: AsyncIterable<Uint8Array>) {
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > limits.fileBytes)
        throw tooMuch(`the file has more than ${megabytes(limits.fileBytes)}: split it`);
      hash.update(chunk);
      yield chunk;
    }
  };
  await pipeline(content, counted, createWriteStream(file));
  return { bytes: (await stat(file)).size, sha256: hash.digest("hex") };
}
