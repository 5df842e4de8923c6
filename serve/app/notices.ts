import { newId, type Store, type Value } from "../store/index.ts";
import { AppError, notFound } from "./app_error.ts";
import type { Documents, Library } from "./documents/index.ts";
import type { Attachment, NewNotice, Notice, NoticeList, NoticePatch } from "./protocol.ts";

/** What one person may have on the board. */
export const noticeLimits = { notices: 1000, attachments: 20, titleChars: 200, bodyChars: 20_000 } as const;

/** Who looks at the board. */
interface Reader {
  readonly id: string;
  /** Whether it may change what others posted. */
  readonly isAdmin: boolean;
}

interface NoticeRow extends Omit<Notice, "pinned" | "editable" | "documents"> {
  user_id: string;
  pinned: number;
  document_id: string | null;
}

const SELECT =
  "SELECT n.id, n.user_id, n.title, n.body, u.name AS author, n.pinned, n.document_id, n.created_at, n.updated_at FROM notice n JOIN user_account u ON u.id = n.user_id WHERE n.deleted_at IS NULL";
const FIRST = "2_";

/**
 * The board as one person sees it. Everybody reads all notices, their author and admins change them. The text of each is a document
 * of the notice, as its attachments are, so that everybody's questions find it.
 */
export class Notices {
  readonly #store: Store;
  readonly #documents: Documents;
  readonly #reader: Reader;

  constructor(store: Store, documents: Documents, reader: Reader) {
    this.#store = store;
    this.#documents = documents;
    this.#reader = reader;
  }

  async list(limit: number, before: string | null): Promise<NoticeList> {
    const [, pinned, id] = /^(\d)_([\w-]*)$/.exec(before ?? FIRST) ?? [];
    if (pinned === undefined)
      throw new AppError(422, "invalid_query", "before: must be `next` of another page", "before");
    const rows = await this.#store.all<NoticeRow>(
      `${SELECT} AND (n.pinned < ? OR (n.pinned = ? AND n.id < ?)) ORDER BY n.pinned DESC, n.id DESC LIMIT ?`,
      [Number(pinned), Number(pinned), id!, limit + 1],
    );
    const shown = rows.slice(0, limit);
    const last = shown.at(-1);
    const next = rows.length > limit && last ? `${last.pinned}_${last.id}` : null;
    return { notices: await this.#shown(shown), next };
  }

  /** @throws AppError 404. */
  async get(id: string): Promise<Notice> {
    return (await this.#shown([await this.#row(id)]))[0]!;
  }

  /** All that the reader posted, the oldest first. */
  async own(): Promise<Notice[]> {
    const rows = await this.#store.all<NoticeRow>(`${SELECT} AND n.user_id = ? ORDER BY n.id`, [
      this.#reader.id,
    ]);
    return this.#shown(rows);
  }

  /** Posts a notice, once for each `request_id`. @throws AppError 410 where it was deleted since, 413 beyond the limit. */
  async post({ title, body, pinned = false, ...given }: Omit<NewNotice, "user_id">): Promise<{
    notice: Notice;
    isNew: boolean;
  }> {
    const { id: userId } = this.#reader;
    const requestId = given.request_id ?? null;
    const id = newId();
    const now = Date.now();
    const isNew = await this.#store.transaction(async (tx) => {
      const added = await tx.run(
        "INSERT INTO notice (id, user_id, title, body, pinned, request_id, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, request_id) DO NOTHING",
        [id, userId, clean(title), clean(body), pinned, requestId, now, now],
      );
      const [{ n }] = (await tx.all<{ n: number }>(
        "SELECT count(*) AS n FROM notice WHERE user_id = ? AND deleted_at IS NULL",
        [userId],
      )) as [{ n: number }];
      if (n > noticeLimits.notices)
        throw new AppError(413, "quota_exceeded", `there are ${n - 1} notices of yours: delete some first`);
      return added > 0;
    });
    const [kept] = isNew
      ? [{ id, deleted_at: null }]
      : await this.#store.all<{ id: string; deleted_at: number | null }>(
          "SELECT id, deleted_at FROM notice WHERE user_id = ? AND request_id = ?",
          [userId, requestId],
        );
    if (kept === undefined || kept.deleted_at !== null)
      throw new AppError(410, "notice_deleted", "this notice was posted, and deleted since", "request_id");
    const row = await this.#row(kept.id);
    // Of one that was sent again the text may not have been kept yet.
    if (row.document_id === null) await this.#keepText(row);
    return { notice: await this.get(row.id), isNew };
  }

  /** @throws AppError 404; 403 for who may not; 409 where it is no longer that of `updated_at`. */
  async patch(id: string, { updated_at: read, ...patch }: NoticePatch): Promise<Notice> {
    const before = await this.#own(id);
    if (read !== undefined && read !== before.updated_at)
      throw new AppError(
        409,
        "notice_changed",
        "another has changed this notice since: read it, then save again",
      );
    const set = Object.entries(patch).map(([name, value]): [string, Value] => [
      name,
      typeof value === "string" ? clean(value) : value,
    ]);
    const isText = patch.title !== undefined || patch.body !== undefined;
    // What is pinned is not edited.
    set.push(["updated_at", isText ? Date.now() : before.updated_at]);
    await this.#store.run(`UPDATE notice SET ${set.map(([name]) => `${name} = ?`).join(", ")} WHERE id = ?`, [
      ...set.map(([, value]) => value),
      id,
    ]);
    const row = await this.#row(id);
    if (row.title !== before.title || row.body !== before.body) await this.#keepText(row);
    return this.get(id);
  }

  /** Takes a notice away with its files; that it was posted is remembered. @throws AppError 404; 403 for who may not. */
  async remove(id: string): Promise<void> {
    const { user_id } = await this.#own(id);
    const library = await this.#documents.of(user_id, id);
    for (const document of await this.#files([id])) await library.remove(document.id);
    await this.#store.run(
      "UPDATE notice SET title = '', body = '', document_id = NULL, deleted_at = ? WHERE id = ?",
      [Date.now(), id],
    );
  }

  /** Where files of a notice are added. @throws AppError 404, 403, 413 where `more` are too many. */
  async attachments(id: string, more: number): Promise<Library> {
    const { user_id, document_id } = await this.#own(id);
    const there = (await this.#files([id])).filter((file) => file.id !== document_id).length;
    if (there + more > noticeLimits.attachments)
      throw new AppError(
        413,
        "quota_exceeded",
        `a notice has ${noticeLimits.attachments} files at most`,
        "file",
      );
    return this.#documents.of(user_id, id);
  }

  /** Keeps the text of a notice as its document, instead of the one before. */
  async #keepText({ id, user_id, title, body, document_id }: NoticeRow): Promise<void> {
    const name = `${title.replace(/[\\/]/g, "-")}.md`;
    const kept = await this.#documents.addText(user_id, id, name, `# ${title}\n\n${body}\n`);
    await this.#store.run("UPDATE notice SET document_id = ? WHERE id = ?", [kept, id]);
    if (document_id !== null && document_id !== kept)
      await (await this.#documents.of(user_id, id)).remove(document_id);
  }

  async #row(id: string): Promise<NoticeRow> {
    const [row] = await this.#store.all<NoticeRow>(`${SELECT} AND n.id = ?`, [id]);
    if (row === undefined) throw notFound("notice");
    return row;
  }

  async #own(id: string): Promise<NoticeRow> {
    const row = await this.#row(id);
    if (this.#mayChange(row)) return row;
    throw new AppError(403, "not_author", "only its author and admins change a notice");
  }

  #mayChange = ({ user_id }: NoticeRow): boolean => user_id === this.#reader.id || this.#reader.isAdmin;

  /** The documents of notices, their texts among them. */
  async #files(ids: readonly string[]): Promise<(Attachment & { notice_id: string })[]> {
    if (ids.length === 0) return [];
    return this.#store.all<Attachment & { notice_id: string }>(
      `SELECT id, notice_id, name, bytes, state, reason FROM document WHERE notice_id IN (${ids.map(() => "?").join(", ")}) ORDER BY created_at, id`,
      ids,
    );
  }

  async #shown(rows: readonly NoticeRow[]): Promise<Notice[]> {
    const files = await this.#files(rows.map(({ id }) => id));
    return rows.map((row) => {
      const { user_id: _, document_id, pinned, author, ...rest } = row;
      return {
        ...rest,
        // Of a server with one user, people are below `local`.
        author: author.replace(/^local\//, ""),
        ...{ pinned: pinned === 1, editable: this.#mayChange(row) },
        documents: files.flatMap(({ notice_id, ...file }) =>
          notice_id === row.id && file.id !== document_id ? [file] : [],
        ),
      };
    });
  }
}

const clean = (text: string): string => text.replaceAll("\0", "\ufffd");
