import { type Migration, table } from "./migration.ts";

/** People, their keys, and conversations as trees of messages. */
export const conversations: Migration = {
  version: 1,
  name: "conversations",
  tables: [
    table("user_account", "id"),
    table("api_key", "id"),
    table("conversation", "id"),
    table("message", "id"),
    table("citation", "message_id", "n"),
  ],
  sql: `
CREATE TABLE user_account (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('admin', 'member', 'service')),
  created_at INTEGER NOT NULL,
  disabled_at INTEGER,
  settings TEXT NOT NULL DEFAULT '{}'
);
-- hash: SHA-256 of a random token of 256 bits, in hexadecimal; prefix: what a list of keys shows of it
CREATE TABLE api_key (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  hash TEXT NOT NULL UNIQUE,
  prefix TEXT NOT NULL,
  scopes TEXT NOT NULL DEFAULT '[]',
  created_at INTEGER NOT NULL,
  last_used_at INTEGER,
  revoked_at INTEGER
);
CREATE INDEX api_key_user ON api_key (user_id);
-- leaf_id: the message that ends the branch which is shown; consent: whether it may become training data
CREATE TABLE conversation (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
  title TEXT,
  model TEXT,
  system TEXT,
  leaf_id TEXT,
  pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
  consent INTEGER NOT NULL DEFAULT 0 CHECK (consent IN (0, 1)),
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  deleted_at INTEGER
);
CREATE INDEX conversation_recent ON conversation (user_id, updated_at);
-- parent_id: the message before it, null for the first; several with one parent are branches. seq: the last event of its answer
-- that this row holds. request_id: the client's name for what it sent, so that what is sent again is the same message
CREATE TABLE message (
  id TEXT PRIMARY KEY,
  conversation_id TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
  user_id TEXT NOT NULL,
  parent_id TEXT,
  role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
  content TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('streaming', 'complete', 'stopped', 'error', 'interrupted')),
  request_id TEXT,
  model TEXT,
  model_version TEXT,
  provider TEXT,
  params TEXT,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  cached_tokens INTEGER,
  cost_microusd INTEGER CHECK (cost_microusd >= 0),
  ttft_ms REAL,
  total_ms REAL,
  mean_logprob REAL,
  finish_reason TEXT,
  error TEXT,
  experiment_arm TEXT,
  seq INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL
);
CREATE INDEX message_of_conversation ON message (conversation_id, created_at);
CREATE INDEX message_of_user ON message (user_id, created_at);
CREATE INDEX message_streaming ON message (status) WHERE status = 'streaming';
CREATE UNIQUE INDEX message_request ON message (user_id, request_id) WHERE request_id IS NOT NULL;
CREATE TABLE citation (
  message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
  n INTEGER NOT NULL,
  chunk_id TEXT NOT NULL,
  document_id TEXT NOT NULL,
  quote_start INTEGER,
  quote_end INTEGER,
  PRIMARY KEY (message_id, n)
);
`,
};
