import { z } from "zod";
import type { Models } from "../../models.ts";
import type { Application } from "../application.ts";
import type { Principal } from "../auth.ts";
import { modelList } from "../model_list.ts";
import type { ChatDelta, ClientEvent, ProtocolName, ServerEvent, Welcome } from "../protocol.ts";
import { type AnswerEvent, failureOf, isEnd } from "./generation.ts";
import { answerParams } from "./params.ts";

const PROTOCOL: ProtocolName = "kiln.chat.v1";

/** Time between two frames of one answer, and bytes that wait for a client before pieces are merged, or it is let go. */
const FRAME_MS = 33;
const MERGE_BYTES = 2 ** 20;
const MOST_BYTES = 8 * 2 ** 20;
/** Connections are told the same while the server runs. */
const SERVER_ID = crypto.randomUUID();

const id = z.string().min(1).max(100);
const seq = z.int().min(0);
const clientEvent = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("hello"),
    protocol: z.string(),
    client_id: id,
    resume: z.array(z.object({ message_id: id, after_seq: seq })).max(100),
  }),
  z.object({
    type: z.literal("watch"),
    conversations: z.array(id).max(1000).optional(),
    jobs: z.boolean().optional(),
  }),
  z.object({
    type: z.literal("chat.send"),
    request_id: id,
    conversation_id: id.nullable(),
    parent_id: id.nullable(),
    text: z.string().min(1).max(1_000_000),
    model: z.string().min(1).max(200),
    params: answerParams.optional(),
    system: z.string().nullish(),
    consent: z.boolean().optional(),
    notice_id: id.nullish(),
    retrieve: z.enum(["auto", "on", "off"]).optional(),
  }),
  z.object({ type: z.literal("chat.stop"), message_id: id }),
  z.object({ type: z.literal("chat.resume"), message_id: id, after_seq: seq }),
  z.object({ type: z.literal("ping"), t: z.number() }),
]);

/** Messages of one connection that wait to be accepted. */
const MOST_SENDING = 16;

/** What a connection is to the protocol. */
export interface Wire {
  send(text: string): void;
  close(code: number, reason: string): void;
  /** Closes, and reads nothing more. */
  cut(code: number, reason: string): void;
  /** Bytes that the client has not taken. */
  waiting(): number;
}

/**
 * One connection of `kiln.chat.v1`. Beginnings and ends of all the user's answers come to it, and the text of those that it
 * follows: of the conversations that it watches, and what it sends or resumes. When it closes, the answers go on.
 */
export class ChatSocket {
  readonly #application: Application;
  readonly #models: Models;
  readonly #principal: Principal;
  readonly #wire: Wire;
  readonly #unlisten: () => void;
  #watched = new Set<string>();
  #unwatchJobs: (() => void) | null = null;
  /** Its own requests that are not accepted yet, and the answers that were while it waited. */
  readonly #sending = new Set<string>();
  readonly #accepted = new Set<string>();
  /** Ends when the last message that was sent is accepted or refused. */
  #line: Promise<unknown> = Promise.resolve();
  #flooded = false;
  readonly #following = new Map<string, () => void>();
  /** Answers whose end it has been told, until their follower hears of it too. */
  readonly #ended = new Set<string>();
  readonly #unsent = new Map<string, ChatDelta>();
  #frame: NodeJS.Timeout | null = null;

  constructor(application: Application, models: Models, principal: Principal, wire: Wire) {
    this.#application = application;
    this.#models = models;
    this.#principal = principal;
    this.#wire = wire;
    this.#unlisten = application.hub.listen(
      principal.id,
      (event, conversationId) => this.#told(event, conversationId),
      { keyId: principal.keyId, end: () => wire.close(4401, "log in") },
    );
  }

  close(): void {
    this.#unlisten();
    this.#watchJobs(false);
    clearTimeout(this.#frame ?? undefined);
    for (const unfollow of this.#following.values()) unfollow();
    this.#following.clear();
  }

  /** Takes a frame of the client. A bad one is answered with `chat.error`. */
  async receive(text: string): Promise<void> {
    if (this.#flooded) return;
    let requestId: string | null = null;
    let messageId: string | null = null;
    try {
      const json = JSON.parse(text) as { request_id?: unknown; message_id?: unknown } | null;
      if (typeof json?.request_id === "string") requestId = json.request_id.slice(0, 100);
      const parsed = clientEvent.safeParse(json);
      if (!parsed.success) {
        const [issue] = parsed.error.issues;
        throw badFrame(`${issue?.path.join(".") || "type"}: ${issue?.message ?? "is not known"}`);
      }
      if ("message_id" in parsed.data) messageId = parsed.data.message_id;
      await this.#handle(parsed.data as ClientEvent);
    } catch (error) {
      const failure =
        error instanceof SyntaxError ? failureOf(badFrame("this is no JSON")) : failureOf(error);
      const ids = { request_id: requestId, conversation_id: null, message_id: messageId, seq: null };
      this.#send({ type: "chat.error", ...ids, ...failure });
    }
  }

  async #handle(event: ClientEvent): Promise<void> {
    const { conversing } = this.#application;
    const userId = this.#principal.id;
    switch (event.type) {
      case "hello":
        this.#send(await this.#welcome());
        for (const { message_id, after_seq } of event.resume) await this.#follow(message_id, after_seq);
        return;
      case "watch":
        this.#watchJobs(event.jobs ?? false);
        return this.#watch(new Set(event.conversations ?? []));
      case "chat.send":
        return this.#ask(event);
      case "chat.stop":
        return conversing.stop(userId, event.message_id);
      case "chat.resume":
        return this.#follow(event.message_id, event.after_seq);
      case "ping":
        this.#send({ type: "pong", t: event.t });
    }
  }

  async #welcome(): Promise<Welcome> {
    const list = await modelList(this.#models, this.#application.source, this.#principal.id);
    const { id, name, role, mode } = this.#principal;
    const running = this.#application.conversing
      .running(id)
      .map(({ messageId: message_id, seq, options }) => ({
        ...{ conversation_id: options.accepted.conversation_id, message_id, seq },
      }));
    const user = { id, name, role, mode };
    return {
      type: "welcome",
      protocol: PROTOCOL,
      server_id: SERVER_ID,
      user,
      ...list,
      running,
    };
  }

  #watchJobs(isWatching: boolean): void {
    if (isWatching === (this.#unwatchJobs !== null)) return;
    this.#unwatchJobs?.();
    const { feed } = this.#application.jobs;
    this.#unwatchJobs = isWatching ? feed.watch(this.#principal.id, (update) => this.#send(update)) : null;
  }

  async #watch(conversations: Set<string>): Promise<void> {
    this.#watched = conversations;
    for (const { messageId, seq, options } of this.#application.conversing.running(this.#principal.id))
      if (conversations.has(options.accepted.conversation_id) && !this.#following.has(messageId))
        await this.#follow(messageId, seq);
  }

  async #ask({ type: _, ...send }: Extract<ClientEvent, { type: "chat.send" }>): Promise<void> {
    if (this.#sending.size >= MOST_SENDING) {
      this.#flooded = true;
      return this.#wire.cut(1013, "too many messages at once: wait until some are accepted");
    }
    this.#sending.add(send.request_id);
    // One after another, so that what others ask for comes in between.
    const sent = this.#line.then(() => this.#application.conversing.send(this.#principal.id, send));
    this.#line = sent.catch(() => {});
    try {
      const accepted = await sent;
      // Sent before, it was accepted before.
      if (!this.#accepted.delete(accepted.message_id)) this.#send(accepted);
    } finally {
      this.#sending.delete(send.request_id);
    }
  }

  async #follow(messageId: string, after: number): Promise<void> {
    this.#following.get(messageId)?.();
    this.#unsent.delete(messageId);
    const { unfollow, live } = await this.#application.conversing.follow(
      this.#principal.id,
      messageId,
      after,
      (event) => this.#heard(event),
    );
    if (live) this.#following.set(messageId, unfollow);
  }

  /** What comes to all of the user's connections. */
  #told(event: ServerEvent, conversationId: string | null): void {
    if (event.type === "chat.delta" || event.type === "chat.notice") return;
    if (event.type === "chat.accepted") {
      const own = event.request_id !== null && this.#sending.has(event.request_id);
      if (own) this.#accepted.add(event.message_id);
      this.#send(event);
      if (own || this.#watched.has(conversationId ?? ""))
        void this.#follow(event.message_id, 0).catch(() => {});
      return;
    }
    if ((event.type === "chat.done" || event.type === "chat.error") && event.message_id !== null) {
      this.#flush(event.message_id);
      if (this.#following.delete(event.message_id)) this.#ended.add(event.message_id);
    }
    this.#send(event);
  }

  /** What comes of an answer that it follows. */
  #heard(event: AnswerEvent): void {
    if (event.type !== "chat.delta") {
      if (!isEnd(event) || !this.#ended.delete(event.message_id ?? "")) {
        this.#flush(event.message_id ?? "");
        this.#send(event);
      }
      return;
    }
    const before = this.#unsent.get(event.message_id);
    const merged = before && { ...event, offset: before.offset, text: before.text + event.text };
    this.#unsent.set(event.message_id, merged ?? event);
    if (this.#frame === null) this.#sendFrames();
  }

  /** Sends what there is, and what comes meanwhile a frame later. */
  #sendFrames(): void {
    const waiting = this.#wire.waiting();
    if (waiting > MOST_BYTES) {
      this.#wire.close(1013, "the client does not read: connect again");
      return;
    }
    if (waiting <= MERGE_BYTES) for (const messageId of [...this.#unsent.keys()]) this.#flush(messageId);
    this.#frame = setTimeout(() => {
      this.#frame = null;
      if (this.#unsent.size > 0) this.#sendFrames();
    }, FRAME_MS);
  }

  #flush(messageId: string): void {
    const delta = this.#unsent.get(messageId);
    this.#unsent.delete(messageId);
    if (delta !== undefined) this.#send(delta);
  }

  #send(event: ServerEvent): void {
    this.#wire.send(JSON.stringify(event));
  }
}

const badFrame = (message: string) => Object.assign(new Error(message), { code: "invalid_event" });
