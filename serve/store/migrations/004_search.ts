import { fillIndex } from "../search.ts";
import type { Migration } from "./migration.ts";

/** Full text over messages: the one thing that each database does in its own way. It is made from the messages, never copied. */
export const search: Migration = {
  version: 4,
  name: "search",
  tables: [],
  sql: {
    // The words are in no content table, whose rows SQLite may renumber in a backup; message_search numbers them.
    sqlite: `
CREATE TABLE message_search (
  row INTEGER PRIMARY KEY,
  message_id TEXT NOT NULL UNIQUE REFERENCES message (id) ON DELETE CASCADE
);
CREATE VIRTUAL TABLE message_words USING fts5 (owner, words, content='', contentless_delete=1, tokenize='ascii');
CREATE TRIGGER message_search_gone AFTER DELETE ON message_search
  BEGIN DELETE FROM message_words WHERE rowid = OLD.row; END;
`,
    postgres: `
CREATE TABLE message_search (
  message_id TEXT PRIMARY KEY REFERENCES message (id) ON DELETE CASCADE,
  words tsvector NOT NULL
);
CREATE INDEX message_words ON message_search USING gin (words);
`,
  },
  fill: fillIndex,
};
