import type { Migration } from "./migration.ts";

/** Finds the messages below a message: its branches, and where each of them ends. */
export const branches: Migration = {
  version: 6,
  name: "branches",
  tables: [],
  sql: `
CREATE INDEX message_children ON message (parent_id);
`,
};
