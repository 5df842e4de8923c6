import { type NoticeClient, NoticeError } from "./client.ts";
import type { Shelf } from "./shelf.ts";

/** A notice that was written here and has not reached the server yet, as far as is known. */
export interface Waiting {
  /** By which the server knows it, however often it is sent. */
  readonly request_id: string;
  /** The id of who wrote it: nobody else's session sends it. */
  readonly author: string;
  readonly title: string;
  readonly body: string;
  readonly pinned: boolean;
  readonly files: readonly { readonly name: string; readonly content: Blob }[];
  readonly written_at: number;
  /** Why the server does not take it. */
  readonly refused: string | null;
}

/** Refusals after which the same request may succeed later. */
const PASSING = new Set([0, 401, 408, 425, 429]);
const isPassing = ({ status }: NoticeError): boolean => PASSING.has(status) || status >= 500;
/** It was posted, and deleted since. */
const GONE = 410;

/**
 * What waits to be sent. A notice leaves it when the server has said that it is there with all its files; until then it is sent again,
 * which the server takes for the same one. So it is posted once, whatever is lost on the way.
 */
export class Outbox {
  readonly #shelf: Shelf<Waiting>;
  #sending: Promise<unknown> = Promise.resolve();

  constructor(shelf: Shelf<Waiting>) {
    this.#shelf = shelf;
  }

  /** Those of one author, the oldest first. */
  async of(author: string): Promise<Waiting[]> {
    const all = await this.#shelf.all();
    return all.filter((one) => one.author === author).sort((a, b) => a.written_at - b.written_at);
  }

  add(notice: Waiting): Promise<void> {
    return this.#shelf.put(notice.request_id, notice);
  }

  discard(requestId: string): Promise<void> {
    return this.#shelf.remove(requestId);
  }

  /** Sends what waits, one after the other. @returns whether the server was reached for all of it. */
  send(client: Pick<NoticeClient, "post" | "attach">, author: string): Promise<boolean> {
    const run = this.#sending.then(async () => {
      for (const notice of await this.of(author))
        if (notice.refused === null && !(await this.#sendOne(client, notice))) return false;
      return true;
    });
    this.#sending = run.catch(() => {});
    return run;
  }

  async #sendOne(client: Pick<NoticeClient, "post" | "attach">, notice: Waiting): Promise<boolean> {
    const { request_id, title, body, pinned, files } = notice;
    try {
      const { id } = await client.post({ request_id, title, body, pinned });
      for (const { name, content } of files) await client.attach(id, name, content);
    } catch (error) {
      if (!(error instanceof NoticeError)) throw error;
      if (isPassing(error)) return false;
      if (error.status !== GONE) {
        await this.#shelf.put(request_id, { ...notice, refused: error.message });
        return true;
      }
    }
    await this.#shelf.remove(request_id);
    return true;
  }
}
