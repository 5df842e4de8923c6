import { type Migration, table } from "./migration.ts";

/** The notice board. */
export const notices: Migration = {
  version: 5,
  name: "notices",
  tables: [table("notice", "id")],
  sql: `
CREATE TABLE notice (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  title TEXT NOT NULL,
  body TEXT NOT NULL,
  pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  deleted_at INTEGER
);
CREATE INDEX notice_recent ON notice (created_at);
`,
};
