import type { Document } from "./documents/document.ts";
import type { documentLimits } from "./documents/limits.ts";

/** Bodies of the routes about documents. */

export type { Document, DocumentState, Passage } from "./documents/document.ts";
export type { Explained } from "./documents/search.ts";

/** `GET /api/documents?limit=`: the newest first, and how much room they take. */
export interface DocumentList {
  documents: Document[];
  bytes: number;
  limits: typeof documentLimits;
}

/** `POST /api/upload`, a form: the documents in the order of its files. Its status is 200 where all of them were there already. */
export interface UploadResult {
  documents: Document[];
  job_id: string | null;
  job_ids: string[];
}
