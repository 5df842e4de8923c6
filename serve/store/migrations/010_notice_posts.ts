import { type Migration, table } from "./migration.ts";

/** Notices that are posted once, found by everybody, and talked about. */
export const noticePosts: Migration = {
  version: 10,
  name: "notice_posts",
  tables: [table("shared_index", "id"), table("conversation_notice", "conversation_id")],
  sql: `
-- request_id: what its author sends twice is one notice; document_id: its text, as what is searched
ALTER TABLE notice ADD COLUMN request_id TEXT;
ALTER TABLE notice ADD COLUMN document_id TEXT;
CREATE UNIQUE INDEX notice_request ON notice (user_id, request_id);
CREATE INDEX document_of_notice ON document (notice_id);
-- as index_state, of the passages that everybody searches: id is 'notices'
CREATE TABLE shared_index (
  id TEXT PRIMARY KEY,
  version INTEGER NOT NULL
);
-- what a conversation is about
CREATE TABLE conversation_notice (
  conversation_id TEXT PRIMARY KEY REFERENCES conversation (id) ON DELETE CASCADE,
  notice_id TEXT NOT NULL
);
`,
};
