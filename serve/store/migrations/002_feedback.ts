import { type Migration, table } from "./migration.ts";

/** What people think of answers, experiments between models, what happened, and what it cost. */
export const feedback: Migration = {
  version: 2,
  name: "feedback",
  tables: [
    table("feedback", "id"),
    table("preference", "id"),
    table("experiment", "id"),
    table("exposure", "experiment_id", "unit_id"),
    table("event", "id"),
    table("usage_day", "day", "user_id", "model"),
  ],
  sql: `
CREATE TABLE feedback (
  id TEXT PRIMARY KEY,
  message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
  user_id TEXT NOT NULL,
  rating INTEGER NOT NULL CHECK (rating IN (-1, 1)),
  reason TEXT,
  correction TEXT,
  created_at INTEGER NOT NULL,
  UNIQUE (message_id, user_id)
);
-- source: how the choice came about, such as the arena or an answer asked for again
CREATE TABLE preference (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL,
  prompt_message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
  chosen_message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
  rejected_message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
  source TEXT NOT NULL,
  created_at INTEGER NOT NULL
);
CREATE INDEX preference_of_prompt ON preference (prompt_message_id);
CREATE INDEX preference_chosen ON preference (chosen_message_id);
CREATE INDEX preference_rejected ON preference (rejected_message_id);
-- arms: JSON, models with their weights
CREATE TABLE experiment (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  arms TEXT NOT NULL,
  unit TEXT NOT NULL CHECK (unit IN ('user', 'conversation')),
  metric TEXT NOT NULL,
  state TEXT NOT NULL,
  started_at INTEGER,
  stopped_at INTEGER,
  alpha REAL NOT NULL,
  tau2 REAL NOT NULL,
  decision TEXT
);
CREATE TABLE exposure (
  experiment_id TEXT NOT NULL REFERENCES experiment (id) ON DELETE CASCADE,
  unit_id TEXT NOT NULL,
  arm TEXT NOT NULL,
  first_at INTEGER NOT NULL,
  PRIMARY KEY (experiment_id, unit_id)
);
-- never a prompt or an answer
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  user_id TEXT,
  session_id TEXT,
  kind TEXT NOT NULL,
  conversation_id TEXT,
  message_id TEXT,
  model TEXT,
  experiment_arm TEXT,
  value REAL,
  data TEXT
);
CREATE INDEX event_at ON event (at);
CREATE INDEX event_kind ON event (kind, at);
-- day: days since 1970 in UTC; unknown_price, estimated: of how many requests the price or the count of tokens is not certain
CREATE TABLE usage_day (
  day INTEGER NOT NULL,
  user_id TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL DEFAULT 0,
  prompt_tokens INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  cost_microusd INTEGER NOT NULL DEFAULT 0 CHECK (cost_microusd >= 0),
  unknown_price INTEGER NOT NULL DEFAULT 0,
  estimated INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (day, user_id, model)
);
`,
};
