import { type Migration, table } from "./migration.ts";

/** People's documents, and the passages that are searched. */
export const documents: Migration = {
  version: 8,
  name: "documents",
  tables: [table("document", "id"), table("chunk", "id"), table("index_state", "user_id")],
  sql: `
-- blob_key: where its bytes are; notes: what was left out; facts: by the kind of file. The same bytes are one document of a user
CREATE TABLE document (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  notice_id TEXT,
  name TEXT NOT NULL,
  kind TEXT,
  bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  blob_key TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('queued', 'reading', 'indexing', 'ready', 'failed')),
  reason TEXT,
  title TEXT,
  pages INTEGER,
  chunks_made INTEGER NOT NULL DEFAULT 0,
  chunks_indexed INTEGER NOT NULL DEFAULT 0,
  notes TEXT NOT NULL DEFAULT '[]',
  facts TEXT NOT NULL DEFAULT '{}',
  created_at INTEGER NOT NULL,
  UNIQUE (user_id, sha256)
);
CREATE INDEX document_recent ON document (user_id, created_at);
-- start_char, end_char: where its text stands in what was read of the document, in UTF-16 units
CREATE TABLE chunk (
  id TEXT PRIMARY KEY,
  document_id TEXT NOT NULL REFERENCES document (id) ON DELETE CASCADE,
  user_id TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  text TEXT NOT NULL,
  page INTEGER,
  heading TEXT,
  start_char INTEGER NOT NULL,
  end_char INTEGER NOT NULL,
  tokens INTEGER NOT NULL
);
CREATE INDEX chunk_of_user ON chunk (user_id);
CREATE UNIQUE INDEX chunk_of_document ON chunk (document_id, ordinal);
-- version: counts the changes of a user's passages, so that an index in memory knows that it is old
CREATE TABLE index_state (
  user_id TEXT PRIMARY KEY REFERENCES user_account (id) ON DELETE CASCADE,
  version INTEGER NOT NULL DEFAULT 0,
  ranker TEXT NOT NULL DEFAULT 'rm3',
  selftest TEXT,
  built_at INTEGER
);
`,
};
