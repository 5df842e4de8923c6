import { type Migration, table } from "./migration.ts";

/** Comparisons of answers, and what finds the answers of an experiment and the events of a user. */
export const comparisons: Migration = {
  version: 7,
  name: "comparisons",
  tables: [table("comparison", "conversation_id")],
  sql: `
-- conversations of one prompt and the answers of several models, which no history lists; blind: who was who is not told yet
CREATE TABLE comparison (
  conversation_id TEXT PRIMARY KEY REFERENCES conversation (id) ON DELETE CASCADE,
  blind INTEGER NOT NULL CHECK (blind IN (0, 1)),
  created_at INTEGER NOT NULL
);
CREATE INDEX message_arm ON message (experiment_arm, created_at) WHERE experiment_arm IS NOT NULL;
CREATE INDEX event_arm ON event (experiment_arm, at) WHERE experiment_arm IS NOT NULL;
CREATE INDEX event_user ON event (user_id, at);
`,
};
