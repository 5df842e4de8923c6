import type {
  Attachment,
  ErrorBody,
  Me,
  NewNotice,
  Notice,
  NoticeList,
  NoticePatch,
} from "../../app/protocol.ts";

/** A refusal of the server; of one that was not reached, `status` is 0. */
export class NoticeError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "NoticeError";
    this.status = status;
  }
}

/** Where the board is, and for whom. */
export interface NoticeClientOptions {
  /** The server's address; in a page of that server, none. */
  readonly url?: string;
  /** A token or key. A page that logged in has none. */
  readonly token?: string | null;
  /** The name of whom a key with the scope `act_as` speaks for. */
  readonly user?: string;
}

/** The notice board of a server. All methods reject with NoticeError. */
export class NoticeClient {
  readonly #options: NoticeClientOptions;

  constructor(options: NoticeClientOptions = {}) {
    this.#options = options;
  }

  /** Who asks. */
  me = (): Promise<Me> => this.#call("GET", "/api/me");
  /** A page of the board: pinned notices first, then the newest; `before` is `next` of the page before. */
  list = (before?: string | null): Promise<NoticeList> =>
    this.#call("GET", "/api/notices", undefined, before ? { before } : {});
  /** Posts a notice. What may be sent again needs a `request_id`, by which it is posted once. */
  post = (notice: NewNotice): Promise<Notice> => this.#call("POST", "/api/notices", notice);
  get = (id: string): Promise<Notice> => this.#call("GET", `/api/notices/${encodeURIComponent(id)}`);
  change = (id: string, patch: NoticePatch): Promise<Notice> =>
    this.#call("PATCH", `/api/notices/${encodeURIComponent(id)}`, patch);
  remove = (id: string): Promise<void> => this.#call("DELETE", `/api/notices/${encodeURIComponent(id)}`);

  /** Adds a file to a notice, which everybody's questions find then. The same bytes again are the same file. */
  async attach(id: string, name: string, content: Blob): Promise<Attachment> {
    const form = new FormData();
    form.append("file", content, name);
    form.append("metadata", JSON.stringify({ notice_id: id, user_id: this.#options.user }));
    const { documents } = await this.#call<{ documents: Attachment[] }>("POST", "/api/upload", form);
    return documents[0]!;
  }

  async #call<T>(
    method: string,
    path: string,
    body?: unknown,
    query: Record<string, string> = {},
  ): Promise<T> {
    const { url = "", token, user } = this.#options;
    const search = new URLSearchParams({ ...query, ...(user && { user_id: user }) }).toString();
    const isForm = body instanceof FormData;
    const response = await fetch(`${url}${path}${search && `?${search}`}`, {
      method,
      headers: {
        ...(token && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && !isForm && { "content-type": "application/json" }),
      },
      ...(body !== undefined && { body: isForm ? body : JSON.stringify(body) }),
    }).catch((error: Error) => {
      throw new NoticeError(0, error.message);
    });
    if (response.ok) return (response.status === 204 ? undefined : await response.json()) as T;
    const refusal = (await response.json().catch(() => null)) as ErrorBody | null;
    throw new NoticeError(
      response.status,
      refusal?.error.message ?? `the server answered ${response.status}`,
    );
  }
}
