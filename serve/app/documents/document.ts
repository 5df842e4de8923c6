import type { FileKind } from "../ingest/extracted.ts";

export type DocumentState = "queued" | "reading" | "indexing" | "ready" | "failed";

/** A document as its owner sees it. */
export interface Document {
  readonly id: string;
  /** The notice that it belongs to, by which everybody may read it; null: its owner's alone. */
  readonly notice_id: string | null;
  readonly name: string;
  readonly kind: FileKind | null;
  readonly bytes: number;
  readonly sha256: string;
  readonly state: DocumentState;
  /** Why it failed, for a person. */
  readonly reason: string | null;
  readonly title: string | null;
  readonly pages: number | null;
  readonly chunks_made: number;
  readonly chunks_indexed: number;
  readonly notes: readonly string[];
  readonly facts: Readonly<Record<string, unknown>>;
  readonly created_at: number;
}

export type DocumentRow = Omit<Document, "notes" | "facts"> & { notes: string; facts: string };

export const COLUMNS =
  "id, notice_id, name, kind, bytes, sha256, state, reason, title, pages, chunks_made, chunks_indexed, notes, facts, created_at";

/** The `sha256` of a notice's document has the notice after it (library.ts). */
export const documentOf = ({ notes, facts, ...row }: DocumentRow): Document => ({
  ...row,
  sha256: row.sha256.slice(0, 64),
  notes: JSON.parse(notes),
  facts: JSON.parse(facts),
});

/** A passage as it is cited. */
export interface Passage {
  readonly id: string;
  readonly document_id: string;
  readonly ordinal: number;
  readonly text: string;
  readonly page: number | null;
  readonly heading: string | null;
  readonly start_char: number;
  readonly end_char: number;
}
