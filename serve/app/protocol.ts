/**
 * What the page and the server say to each other: the events of the WebSocket `kiln.chat.v1` (`GET /api/chat/ws`) and the bodies
 * of `/api/*`. Types alone: the server checks what it is sent by schemas of the same shape, and the page imports nothing else of
 * the server.
 *
 * Times are milliseconds since 1970 in UTC, days `YYYY-MM-DD` in UTC, ids UUIDs as text, money whole micro-dollars, probabilities
 * and rates 0 to 1. A field that is not known is null, never left out; `?` marks what a sender may leave out. Errors of every
 * route are OpenAI's envelope, `ErrorBody`.
 */

import type { JobUpdate } from "./protocol_jobs.ts";
import type { ModelInfo, ModelList, User } from "./protocol_models.ts";
import type { Feedback } from "./protocol_reports.ts";

export type * from "./protocol_documents.ts";
export type * from "./protocol_jobs.ts";
export type * from "./protocol_models.ts";
export type * from "./protocol_notices.ts";
export type * from "./protocol_reports.ts";

/** The subprotocol that the client asks for; a change that an older page would not understand takes the next number. */
export type ProtocolName = "kiln.chat.v1";

export type Role = "system" | "user" | "assistant" | "tool";

/** Only an answer is ever something else than `complete`. `interrupted`: the server ended meanwhile, or its provider broke off. */
export type MessageStatus = "streaming" | "complete" | "stopped" | "error" | "interrupted";

/** `abort`: stopped by a person; its text so far is a normal answer. */
export type FinishReason = "stop" | "length" | "abort" | "error";

/** How an answer is sampled; what is left out is the model's own default. */
export interface Params {
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
}

/** Tokens of one answer. `estimated`: counted by our tokenizer because the provider did not say. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  estimated: boolean;
}

/** What did not fit the model's context and was not sent to it: whole messages, oldest first. */
export interface Trimmed {
  messages: number;
  tokens: number;
}

/** A passage of a document that the answer may cite as [n]. */
export interface Citation {
  n: number;
  document_id: string;
  name: string;
  page: number | null;
  heading: string | null;
  /** Where the passage stands among those of the document, from 0. */
  ordinal: number;
  quote: string;
}

/** Why an answer has none, or ended early. `retryable`: the same request may succeed later. */
export interface Failure {
  code: string;
  message: string;
  retryable: boolean;
}

/** Body of every response with a status of 400 or more. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

// ---- conversations ----

export interface Conversation {
  id: string;
  title: string | null;
  /** What the next message goes to unless it says otherwise. */
  model: string | null;
  system: string | null;
  /** The message that ends the branch which is shown; null: no message yet. */
  leaf_id: string | null;
  pinned: boolean;
  /** Whether it may become training data. */
  consent: boolean;
  /** The notice that it is about. */
  notice_id: string | null;
  /** Whether an answer of it is being written. */
  running: boolean;
  created_at: number;
  updated_at: number;
}

/** A row of the tree. What only answers have is null for other roles. */
export interface Message {
  id: string;
  conversation_id: string;
  parent_id: string | null;
  role: Role;
  content: string;
  status: MessageStatus;
  /** All messages with this parent, itself included, oldest first: the branches. */
  siblings: string[];
  /** Who answered, which may be another than was asked; `provider`: `local` or the name of an upstream. */
  model: string | null;
  model_version: string | null;
  provider: string | null;
  experiment_arm: string | null;
  params: Params | null;
  usage: Usage | null;
  /** null: the price is not known. */
  cost_microusd: number | null;
  /** From `accepted` to the first delta, and to the end. */
  ttft_ms: number | null;
  total_ms: number | null;
  tokens_per_second: number | null;
  mean_logprob: number | null;
  finish_reason: FinishReason | null;
  error: Failure | null;
  trimmed: Trimmed | null;
  citations: Citation[];
  /** Sentences of an answer from documents that cite nothing and that none of its sources has. */
  unsupported?: string[];
  feedback: Feedback | null;
  /** The number of the last event that `content` holds: `chat.resume` goes on after it. */
  seq: number;
  created_at: number;
}

/** `GET /api/conversations?limit=50&before=CURSOR`: newest first, pinned ones not set apart. */
export interface ConversationList {
  conversations: Conversation[];
  /** `before` of the next page; null: that was all. */
  next: string | null;
}

/** `POST /api/conversations` makes an empty one and answers 201 with it. */
export interface NewConversation {
  title?: string;
  model?: string;
  system?: string;
  consent?: boolean;
}

/**
 * `PATCH /api/conversations/:id` answers with the Conversation. `leaf_id` may be any message of it: the newest leaf below that
 * message becomes the end of what is shown. `DELETE` puts it into a bin for 30 days (204); `deleted: false` takes it out again.
 */
export interface ConversationPatch {
  title?: string;
  model?: string;
  system?: string | null;
  pinned?: boolean;
  consent?: boolean;
  leaf_id?: string;
  deleted?: false;
}

/** `GET /api/conversations/:id/messages?limit=50&before=MESSAGE`: the end of the branch to `leaf_id`, oldest first. */
export interface MessageList {
  messages: Message[];
  /** `before` of the page above; null: the first message is here. */
  before: string | null;
}

/**
 * `POST /api/conversations/import`, a form whose part `file` has any layout of `kiln data import`, answers 201. What it adds is no
 * training data until its switch is put on.
 */
export interface ImportResult {
  conversations: number;
  skipped: { row: number; code: string; message: string }[];
}

/** `GET /api/search?q=`: messages of the caller that hold all words, and conversations whose title does. */
export interface SearchResult {
  hits: {
    conversation_id: string;
    title: string | null;
    /** null: the title itself. */
    message_id: string | null;
    /** About 160 characters around the words, plain text. */
    excerpt: string;
    created_at: number;
  }[];
}

/** `POST /api/tokens`: what a prompt would come to. Without `conversation_id` and `system`, of the text alone as a first turn. */
export interface TokensBody {
  model: string;
  text: string;
  conversation_id?: string | null;
  parent_id?: string | null;
  system?: string | null;
}
export interface TokensResult {
  /** Of system prompt, history within the context, and text. */
  tokens: number;
  context_length: number;
}

/** `POST /api/chat`, the seed's form of `chat.send`. `stream`: SSE, `id:` = seq, `data:` = the server events below. */
export interface ChatBody {
  user_id: string;
  query: string;
  conversation_id?: string | null;
  parent_id?: string | null;
  request_id?: string;
  model?: string;
  system?: string | null;
  consent?: boolean;
  stream?: boolean;
  retrieve?: "auto" | "on" | "off";
  params?: Params;
}
export interface ChatResult {
  conversation_id: string;
  message_id: string;
  response: string;
  model: string;
  citations: Citation[];
  usage: Usage;
  cost_microusd: number | null;
  trimmed: Trimmed;
}

/**
 * `POST /api/messages/:id/regenerate` (a sibling of this answer) answers 202 with a ChatAccepted whose events follow on the
 * socket. So does `POST .../continue`, without a body, which goes on writing a stopped or interrupted answer or one that reached
 * `max_tokens`: same message, seq and offset go on. `POST .../stop` answers 204.
 * `GET .../stream?after=SEQ` (or `Last-Event-ID`) is SSE of the events after that one.
 */
export interface RegenerateBody {
  request_id: string;
  model?: string;
  params?: Params;
}

/** `PATCH /api/messages/:id` answers 201 with a sibling that has this text. */
export interface EditBody {
  content: string;
}

/** `GET /api/messages/:id/alternatives?top=5`: the tokens of an answer and what the model held for likely in their place. */
export interface Alternatives {
  model: string;
  tokens: {
    text: string;
    probability: number;
    entropy: number;
    top: { text: string; probability: number }[];
  }[];
}

/**
 * `POST /api/compare`: one prompt to 2 to 4 models with the same parameters, in a conversation of its own that history does not
 * list. Answers 202; the answers are siblings below `user_message_id`, in a random order, and their events follow on the socket,
 * where `chat.accepted` and `chat.done` say `model: ""` when `blind`, until the vote.
 */
export interface CompareBody {
  models: string[];
  text: string;
  params?: Params;
  blind?: boolean;
  /** Whether the answers and the vote may become training data. */
  consent?: boolean;
}
export interface CompareResult {
  conversation_id: string;
  user_message_id: string;
  answers: { message_id: string; model: string | null }[];
}

// ---- WebSocket: client to server, JSON text of at most 1 MiB ----

export type ClientEvent =
  | Hello
  | Watch
  | ChatSend
  | { type: "chat.stop"; message_id: string }
  /** Sends what came after `after_seq` and goes on; `chat.error` with code `not_found` where there is no such message. */
  | { type: "chat.resume"; message_id: string; after_seq: number }
  | { type: "ping"; t: number };

/** The first event of a connection. */
export interface Hello {
  type: "hello";
  protocol: ProtocolName;
  /** Of this tab, for as long as it lives. */
  client_id: string;
  /** Answers that the client has in part, to be resumed. */
  resume: { message_id: string; after_seq: number }[];
}

/**
 * Replaces what this connection follows. Deltas, sources and notices of answers come for the conversations listed here and for
 * those it sends to or resumes; `chat.accepted`, `chat.done` and `chat.error` come for all of the user's.
 */
export interface Watch {
  type: "watch";
  conversations?: string[];
  jobs?: boolean;
  notices?: boolean;
}

/** A user message and its answer. The same `request_id` within 10 minutes is the same message: its `chat.accepted` comes again. */
export interface ChatSend {
  type: "chat.send";
  request_id: string;
  /** null: a new one, made with `system`, `consent` and `notice_id`. */
  conversation_id: string | null;
  /** The message before it, null for the first. Editing a message is sending beside it: with its `parent_id`. */
  parent_id: string | null;
  text: string;
  model: string;
  params?: Params;
  system?: string | null;
  consent?: boolean;
  notice_id?: string | null;
  retrieve?: "auto" | "on" | "off";
}

// ---- WebSocket: server to client ----

/** The passages that an answer is made from, before its text. */
export interface ChatSources {
  type: "chat.sources";
  message_id: string;
  seq: number;
  citations: Citation[];
}

export type ServerEvent =
  | Welcome
  | ChatAccepted
  | ChatSources
  | ChatDelta
  | ChatNotice
  | ChatDone
  | ChatError
  /** Of every conversation that is made or changed, and when an answer of it begins. */
  | { type: "conversation.update"; conversation: Conversation }
  | { type: "conversation.deleted"; conversation_id: string }
  /** What is served is other than before. */
  | ({ type: "model.update" } & ModelList)
  /** The server's database: what is asked of a lost one waits a while, and is then refused; nothing is lost or doubled. */
  | { type: "store.update"; state: "lost" | "back" }
  /** To those that watch jobs; for each that is open when they begin to. */
  | JobUpdate
  | { type: "pong"; t: number };

export interface Welcome {
  type: "welcome";
  protocol: ProtocolName;
  /** Of this run of the server. */
  server_id: string;
  user: User;
  models: ModelInfo[];
  default_model: string | null;
  /** Answers of the user that are being written now. */
  running: { conversation_id: string; message_id: string; seq: number }[];
}

export interface ChatAccepted {
  type: "chat.accepted";
  /** Of the request; null where the answer was asked for over a route. */
  request_id: string | null;
  conversation_id: string;
  user_message_id: string;
  message_id: string;
  model: string;
  arm: string | null;
  trimmed: Trimmed;
}

/**
 * A piece of an answer. `seq` numbers the events of one message from 1; one frame may merge several and has the last one's.
 * Applied as `content.slice(0, offset) + text`; an offset beyond what the client has means that it missed one: it resumes.
 */
export interface ChatDelta {
  type: "chat.delta";
  message_id: string;
  seq: number;
  /** Where `text` stands in the answer, in UTF-16 code units. */
  offset: number;
  text: string;
}

/** Something that a person should know about how the answer comes about. */
export interface ChatNotice {
  type: "chat.notice";
  message_id: string;
  seq: number;
  notice:
    | { kind: "queued"; position: number }
    | { kind: "retry"; provider: string; attempt: number; wait_ms: number }
    | { kind: "fallback" | "routed"; from: string; to: string; reason: string }
    | { kind: "voted"; models: string[]; method: string };
}

/** The end of an answer that has text: exactly one of `chat.done` and `chat.error` ends every accepted message. */
export interface ChatDone {
  type: "chat.done";
  message_id: string;
  conversation_id: string;
  seq: number;
  /** `abort`: the status is `stopped`. */
  finish_reason: FinishReason;
  model: string;
  model_version: string | null;
  provider: string;
  usage: Usage;
  cost_microusd: number | null;
  ttft_ms: number | null;
  total_ms: number;
  tokens_per_second: number | null;
  mean_logprob: number | null;
  unsupported?: string[];
  /** SHA-256 of the whole text as UTF-8, hexadecimal. A client with another text fetches the message again. */
  text_sha256: string;
}

/** With `message_id`: the end of that answer, whose text so far stays. Without: `request_id` was refused, or the frame was bad. */
export interface ChatError extends Failure {
  type: "chat.error";
  request_id: string | null;
  conversation_id: string | null;
  message_id: string | null;
  seq: number | null;
}
