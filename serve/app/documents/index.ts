import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";
import { type Blobs, type OpenStore, openBlobs } from "../../store/index.ts";
import { openQueue, work } from "../../store/queue.ts";
import type { Encode } from "../retrieval/index.ts";
import { Library, type Shelves } from "./library.ts";
import { ingest, readText } from "./reader.ts";
import { Searches } from "./search.ts";

export type { Library } from "./library.ts";

/** The documents of all users of a server: kept, read one after the other, and searched. Opened when somebody first asks. */
export class Documents {
  readonly searches: Searches;
  readonly #store: OpenStore;
  readonly #blobs: Blobs | undefined;
  readonly #stopping = new AbortController();
  #shelves: Promise<Shelves> | null = null;
  #reading: Promise<void> = Promise.resolve();

  /**
   * @param blobs default: where the environment says
   * @param encoder what makes vectors of texts, if anything does now
   */
  constructor(store: OpenStore, blobs?: Blobs, encoder?: () => Encode | null) {
    this.#store = store;
    this.#blobs = blobs;
    this.searches = new Searches(store, encoder);
  }

  /** One user's documents, or those of a notice of theirs. @throws KilnError where blobs or the queue cannot be opened; the next call tries again. */
  async of(userId: string, noticeId: string | null = null): Promise<Library> {
    this.#shelves ??= this.#open().catch((error) => {
      this.#shelves = null;
      throw error;
    });
    return new Library(await this.#shelves, userId, noticeId);
  }

  /** Keeps a text as a document of a notice, which is found from now on. @returns its id. */
  async addText(userId: string, noticeId: string, name: string, text: string): Promise<string> {
    const library = await this.of(userId, noticeId);
    const { document } = await library.add(name, Readable.from([Buffer.from(text)]), true);
    await readText(this.#store, document, userId, text);
    return document.id;
  }

  /** Goes on with what an earlier run left unread. */
  async resume(): Promise<void> {
    const left = await this.#store.all(
      "SELECT id FROM job WHERE kind = 'ingest' AND state IN ('queued', 'running') LIMIT 1",
    );
    if (left.length > 0) await this.of("");
  }

  /** Removes all of a user's documents; how many rows and files. */
  async clear(userId: string): Promise<Record<string, number>> {
    const [any] = await this.#store.all("SELECT id FROM document WHERE user_id = ? LIMIT 1", [userId]);
    return any ? (await this.of(userId)).clear() : { document: 0, chunk: 0, blob: 0 };
  }

  /** Stops reading; what was being read is read again by the next run. */
  async close(): Promise<void> {
    this.#stopping.abort();
    const shelves = await this.#shelves?.catch(() => null);
    await this.#reading;
    await shelves?.queue.close();
  }

  async #open(): Promise<Shelves> {
    const [blobs, queue] = await Promise.all([this.#blobs ?? openBlobs(), openQueue(this.#store)]);
    const { signal } = this.#stopping;
    const worker = `server ${process.pid} ${randomUUID().slice(0, 8)}`;
    this.#reading = work(queue, { ingest: ingest(this.#store, blobs) }, { worker, signal }).catch(() => {
      // The store was lost: the next upload opens everything again.
      this.#shelves = null;
    });
    return { store: this.#store, blobs, queue };
  }
}
