/** Bodies of the routes about notices, which all people of a server read. */

/** A file of a notice; its passages are found by everybody, at `/api/documents/ID` too. */
export interface Attachment {
  id: string;
  name: string;
  bytes: number;
  state: "queued" | "reading" | "indexing" | "ready" | "failed";
  /** Why it failed. */
  reason: string | null;
}

export interface Notice {
  id: string;
  title: string;
  /** Markdown. */
  body: string;
  /** The name of who posted it. */
  author: string;
  /** Whether the caller may change it: its author and admins. */
  editable: boolean;
  pinned: boolean;
  documents: Attachment[];
  created_at: number;
  updated_at: number;
}

/** `POST /api/notices` answers 201 with the Notice; the same `request_id` of the same author again is that one, with 200. */
export interface NewNotice {
  title: string;
  body: string;
  pinned?: boolean;
  request_id?: string;
  /** Whom the caller's key acts for (scope `act_as`). */
  user_id?: string;
}

/** `PATCH /api/notices/:id` answers with the Notice, `DELETE` 204. */
export interface NoticePatch {
  title?: string;
  body?: string;
  pinned?: boolean;
  /** Of the notice as it was read: where another has changed it since, 409. */
  updated_at?: number;
}

/** `GET /api/notices?limit=50&before=CURSOR`: pinned ones first, then the newest. */
export interface NoticeList {
  notices: Notice[];
  /** `before` of the next page; null: that was all. */
  next: string | null;
}
