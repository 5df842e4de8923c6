import type { Migration } from "./migration.ts";

/** The servers that share a store: `params` of an answer says which of them writes it. They are no data, and copies have none. */
export const serverRuns: Migration = {
  version: 9,
  name: "server_runs",
  tables: [],
  sql: `
-- owner: JSON, the process (core/platform/lock.ts); seen_at: when it last said that it lives
CREATE TABLE server_run (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  seen_at INTEGER NOT NULL
);
`,
};
