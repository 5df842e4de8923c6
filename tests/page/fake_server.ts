import { createHash, randomUUID } from "node:crypto";
import websocket from "@fastify/websocket";
import { type FastifyInstance, fastify } from "fastify";
import type { WebSocket } from "ws";
import type {
  ChatSend,
  ClientEvent,
  CompareBody,
  Conversation,
  ConversationPatch,
  Feedback,
  FeedbackBody,
  Message,
  ModelInfo,
  ServerEvent,
  Settings,
  User,
} from "../../serve/app/protocol.ts";
import { type PageFile, readPage } from "../../serve/http/page.ts";
import { demo, FakeHistory, other, type Reply, tokensOf } from "./fake_history.ts";
import { reports } from "./reports.ts";

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));
export const fault = (status: number, code: string, message: string) =>
  Object.assign(new Error(message), { statusCode: status, code });

/** A server that speaks kiln.chat.v1 and the routes of the page from memory, as its script says. */
export class FakeServer extends FakeHistory {
  user: User = { id: "local", name: "local", role: "admin", mode: "single" };
  settings: Settings = {};
  models: ModelInfo[] = [demo, other];
  reply: (text: string, model: string) => Reply = (text) => ({ pieces: [`You said: ${text}`] });
  /** What reads answer instead of the truth: by the start of the path, a status or `hang`. */
  broken = new Map<string, number | "hang">();
  reports = reports();
  token: string | null = null;
  protocol = "kiln.chat.v1";
  refuseSockets = false;
  /** Whether frames repeat what the two before had, and one of seven is lost. */
  stutter = false;
  requests: { method: string; path: string; body: unknown }[] = [];
  events: ClientEvent[] = [];
  #app: FastifyInstance | null = null;
  #files: Map<string, PageFile>;
  #port = 0;
  #sockets = new Map<WebSocket, Set<string>>();
  #server = randomUUID();
  #accepted = new Map<string, ServerEvent>();
  #stopped = new Set<string>();
  #hidden = new Map<string, string>();

  private constructor(files: Map<string, PageFile>) {
    super();
    this.#files = files;
  }

  /** Serves the page of a folder that `buildPage` wrote, on loopback. */
  static async start(folder: string): Promise<FakeServer> {
    const server = new FakeServer(await readPage(folder));
    await server.listen();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Comes up again, on the port that it had. */
  async listen(): Promise<void> {
    const app = fastify({ forceCloseConnections: true });
    this.#app = app;
    await app.register(websocket);
    app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, _request, reply) =>
      reply.code(error.statusCode ?? 500).send({
        error: {
          message: error.message,
          type: "invalid_request_error",
          param: null,
          code: error.code ?? null,
        },
      }),
    );
    app.addHook("onRequest", async ({ url }) => {
      const found = [...this.broken].find(([start]) => url.startsWith(start))?.[1];
      if (found === "hang") await new Promise(() => {});
      if (typeof found === "number") throw fault(found, "broken", "The disk is full.");
      if (this.token && url.startsWith("/api/") && url !== "/api/login")
        throw fault(401, "unauthorized", "Who is it?");
    });
    app.addHook("preHandler", async ({ method, url, body }) => {
      this.requests.push({ method, path: url, body });
    });
    app.addContentTypeParser("multipart/form-data", (_request, payload, done) => {
      payload.resume();
      payload.on("end", () => done(null, {}));
    });
    this.#routes(app);
    await app.listen({ host: "127.0.0.1", port: this.#port });
    this.#port = (app.server.address() as { port: number }).port;
  }

  /** Ends as a killed process does. What it was writing stays as it is. */
  async close(): Promise<void> {
    for (const socket of this.#sockets.keys()) socket.terminate();
    this.#sockets.clear();
    await this.#app?.close();
    this.#app = null;
  }

  /** Starts anew: what was being written is interrupted. */
  async restart(): Promise<void> {
    for (const message of this.messages.values())
      if (message.status === "streaming") {
        this.#stopped.add(message.id);
        message.status = "interrupted";
      }
    for (const conversation of this.conversations.values()) conversation.running = false;
    this.#server = randomUUID();
    await this.listen();
  }

  /** Cuts all connections, and nothing else. */
  drop(): void {
    for (const socket of this.#sockets.keys()) socket.terminate();
  }

  // ---- HTTP ----

  #routes(app: FastifyInstance): void {
    for (const [path, { body, headers }] of this.#files)
      app.get(path, (_request, reply) => reply.headers(headers).send(body));
    app.get("/health", () => ({ status: "ok" }));
    app.get("/api/me", () => ({ ...this.user, settings: this.settings }));
    app.patch("/api/me/settings", ({ body }) => Object.assign(this.settings, body));
    app.post("/api/login", ({ body }) => {
      if ((body as { token: string }).token !== this.token)
        throw fault(403, "wrong_token", "That token is not known.");
      this.token = null;
      return this.user;
    });
    app.get("/api/models", () => ({ models: this.models, default_model: this.models[0]?.name ?? null }));
    app.post("/api/tokens", ({ body }) => ({
      tokens: 12 + tokensOf((body as { text: string }).text),
      context_length: 1024,
    }));
    this.#history(app);
    this.#answers(app);
    for (const key of Object.keys(this.reports)) {
      const [method, url] = key.split(" ");
      app.route({
        method: method as "GET",
        url,
        handler: ({ body, params }) => this.reports[key](body as never, params as never),
      });
    }
    app.get("/api/chat/ws", { websocket: true }, (socket) => this.#connected(socket));
    app.addHook("preValidation", async ({ url }) => {
      if (url === "/api/chat/ws" && this.refuseSockets) throw fault(502, "proxy", "No upgrades here.");
    });
  }

  #history(app: FastifyInstance): void {
    const named = (params: unknown) => {
      const found = this.conversations.get((params as { id: string }).id);
      if (!found) throw fault(404, "not_found", "There is no such conversation.");
      return found;
    };
    app.get("/api/conversations", () => ({
      conversations: [...this.conversations.values()].sort((a, b) => b.updated_at - a.updated_at),
      next: null,
    }));
    const bin = new Map<string, Conversation>();
    app.get("/api/conversations/:id", ({ params }) => named(params));
    app.patch("/api/conversations/:id", ({ params, body }) => {
      const { deleted, leaf_id, ...patch } = body as ConversationPatch;
      const { id } = params as { id: string };
      if (deleted === false) this.conversations.set(id, bin.get(id)!);
      const found = named(params);
      if (leaf_id) found.leaf_id = this.leafBelow(leaf_id);
      return Object.assign(found, patch);
    });
    app.delete("/api/conversations/:id", ({ params }, reply) => {
      const found = named(params);
      bin.set(found.id, found);
      this.conversations.delete(found.id);
      return reply.code(204).send();
    });
    app.get("/api/conversations/:id/messages", ({ params, query }) => {
      const found = named(params);
      const { before, limit } = query as { before?: string; limit: string };
      const branch = this.branch(before ? this.messages.get(before)!.parent_id : found.leaf_id);
      const messages = branch.slice(-Number(limit));
      return { messages, before: branch.length > messages.length ? messages[0].id : null };
    });
    app.get("/api/search", ({ query }) => {
      const words = (query as { q: string }).q.toLowerCase();
      const hits = [...this.messages.values()].filter(({ content }) => content.toLowerCase().includes(words));
      return {
        hits: hits.map(({ id, conversation_id, content, created_at }) => ({
          ...{ conversation_id, title: this.conversations.get(conversation_id)?.title ?? null },
          ...{ message_id: id, excerpt: content.slice(0, 160), created_at },
        })),
      };
    });
  }

  #answers(app: FastifyInstance): void {
    const id = (params: unknown) => (params as { id: string }).id;
    app.post("/api/messages/:id/regenerate", ({ params, body }, reply) => {
      const { model, request_id } = body as { model?: string; request_id: string };
      const before = this.messages.get(id(params))!;
      const question = this.messages.get(before.parent_id!)!;
      return reply.code(202).send(this.#begin(question, model ?? before.model!, request_id));
    });
    app.post("/api/messages/:id/continue", ({ params }, reply) => {
      const message = this.messages.get(id(params))!;
      Object.assign(message, { status: "streaming", error: null, finish_reason: null });
      this.#stopped.delete(message.id);
      const accepted = this.#acceptance(message, null);
      this.#all(accepted);
      void this.#write(message, { pieces: ["And so on."], gapMs: 20 });
      return reply.code(202).send(accepted);
    });
    app.post("/api/messages/:id/stop", ({ params }, reply) => {
      this.#stopped.add(id(params));
      return reply.code(204).send();
    });
    app.get("/api/messages/:id/alternatives", ({ params }) => ({
      model: "demo",
      tokens: this.messages
        .get(id(params))!
        .content.split(/(?<= )/)
        .map((text, index) => ({
          ...{ text, probability: 0.9 - (index % 5) * 0.15, entropy: 0.4 + (index % 5) * 0.5 },
          top: [text, "the ", "a ", "<b>x</b>", "\n"].map((one, rank) => ({
            text: one,
            probability: 0.6 / 2 ** rank,
          })),
        })),
    }));
    app.post("/api/feedback", ({ body }): Feedback => {
      const { message_id, rating, reason = null, correction = null } = body as FeedbackBody;
      const feedback = { message_id, rating, reason, correction, created_at: Date.now() };
      this.messages.get(message_id)!.feedback = rating === 0 ? null : feedback;
      return feedback;
    });
    app.post("/api/chat", async ({ body }, reply) => {
      const { query, ...rest } = body as ChatSend & { query: string };
      reply.hijack();
      reply.raw.writeHead(200, { "content-type": "text/event-stream" });
      const send = (event: ServerEvent) => reply.raw.write(`data: ${JSON.stringify(event)}\n\n`);
      const message = this.#sent({ ...rest, type: "chat.send", text: query }, send);
      if (message) this.#streams.set(message.id, send);
    });
    app.post("/api/compare", ({ body }, reply) => {
      const { models, text, blind } = body as CompareBody;
      const conversation = this.addConversation({ title: null });
      this.conversations.delete(conversation.id);
      const question = this.addMessage(conversation, { content: text });
      const answers = models.map((model) => {
        const { message_id } = this.#begin(question, model, null, undefined, blind ? "" : model) as {
          message_id: string;
        };
        if (blind) this.#hidden.set(message_id, model);
        return { message_id, model: blind ? null : model };
      });
      return reply
        .code(202)
        .send({ conversation_id: conversation.id, user_message_id: question.id, answers });
    });
    app.post("/api/preferences", () => ({ models: Object.fromEntries(this.#hidden) }));
  }

  #streams = new Map<string, (event: ServerEvent) => void>();

  // ---- WebSocket ----

  /** Says something to every connection. */
  tell(event: ServerEvent): void {
    for (const socket of this.#sockets.keys()) socket.send(JSON.stringify(event));
  }

  #connected(socket: WebSocket): void {
    const watches = new Set<string>();
    this.#sockets.set(socket, watches);
    const send = (event: ServerEvent) => socket.send(JSON.stringify(event));
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("message", (data) => {
      const event = JSON.parse(String(data)) as ClientEvent;
      this.events.push(event);
      if (event.type === "hello") {
        const running = [...this.messages.values()].filter(({ status }) => status === "streaming");
        send({
          ...{ type: "welcome", protocol: this.protocol as "kiln.chat.v1", server_id: this.#server },
          ...{ user: this.user, models: this.models, default_model: this.models[0]?.name ?? null },
          running: running.map(({ id, conversation_id, seq }) => ({ message_id: id, conversation_id, seq })),
        });
        for (const { message_id, after_seq } of event.resume) this.#resume(message_id, after_seq, send);
      } else if (event.type === "watch") {
        watches.clear();
        for (const id of event.conversations ?? []) watches.add(id);
      } else if (event.type === "chat.send") {
        const message = this.#sent(event, send);
        if (message) watches.add(message.conversation_id);
      } else if (event.type === "chat.stop") this.#stopped.add(event.message_id);
      else if (event.type === "chat.resume") this.#resume(event.message_id, event.after_seq, send);
      else if (event.type === "ping") send({ type: "pong", t: event.t });
    });
  }

  #resume(id: string, after: number, send: (event: ServerEvent) => void): void {
    const message = this.messages.get(id);
    if (!message) return;
    const offset = this.#offsets.get(id)?.[after] ?? 0;
    if (message.seq > after)
      send({
        type: "chat.delta",
        message_id: id,
        seq: message.seq,
        offset,
        text: message.content.slice(offset),
      });
    if (message.status !== "streaming") send(this.#ended(message));
  }

  /** Where the text of each event begins. */
  #offsets = new Map<string, number[]>();

  /** Everybody who is there. */
  #all(event: ServerEvent): void {
    for (const socket of this.#sockets.keys()) socket.send(JSON.stringify(event));
  }

  #watching(conversation: string, event: ServerEvent): void {
    for (const [socket, watches] of this.#sockets)
      if (watches.has(conversation)) socket.send(JSON.stringify(event));
    if ("message_id" in event && event.message_id) this.#streams.get(event.message_id)?.(event);
  }

  #sent(event: ChatSend, send: (event: ServerEvent) => void): Message | null {
    const again = this.#accepted.get(event.request_id);
    if (again) {
      send(again);
      return null;
    }
    const reply = this.reply(event.text, event.model);
    const { refuse } = reply;
    if (refuse) {
      const { request_id, conversation_id } = event;
      send({ type: "chat.error", request_id, conversation_id, message_id: null, seq: null, ...refuse });
      return null;
    }
    const conversation =
      event.conversation_id === null
        ? this.addConversation({ title: event.text.slice(0, 40), system: event.system ?? null })
        : this.conversations.get(event.conversation_id)!;
    conversation.updated_at = this.time++;
    const question = this.addMessage(conversation, { content: event.text, parent_id: event.parent_id });
    const accepted = this.#begin(question, event.model, event.request_id, reply);
    this.#accepted.set(event.request_id, accepted);
    send(accepted);
    this.#all({ type: "conversation.update", conversation: { ...conversation, running: true } });
    return this.messages.get(conversation.leaf_id!)!;
  }

  #acceptance(message: Message, request_id: string | null, name = message.model!): ServerEvent {
    const { id, conversation_id, parent_id } = message;
    const trimmed = message.trimmed ?? { messages: 0, tokens: 0 };
    return {
      ...{ type: "chat.accepted", request_id, conversation_id, user_message_id: parent_id!, message_id: id },
      ...{ model: name, arm: null, trimmed },
    };
  }

  #begin(
    question: Message,
    model: string,
    request_id: string | null,
    reply = this.reply(question.content, model),
    name = model,
  ): ServerEvent {
    const conversation = this.conversations.get(question.conversation_id) ?? this.addConversation();
    if (conversation.id !== question.conversation_id) this.conversations.delete(conversation.id);
    const message = this.addMessage(
      { ...conversation, id: question.conversation_id, leaf_id: question.id },
      { role: "assistant", status: "streaming", model, trimmed: reply.trimmed ?? null },
    );
    conversation.leaf_id = message.id;
    const accepted = this.#acceptance(message, request_id, name);
    if (request_id === null || question.siblings) this.#all(accepted);
    void this.#write(message, reply);
    return accepted;
  }

  async #write(message: Message, reply: Reply): Promise<void> {
    const { conversation_id } = message;
    const app = this.#app;
    const offsets = this.#offsets.get(message.id) ?? [0];
    this.#offsets.set(message.id, offsets);
    await sleep(1);
    if (reply.notice) {
      offsets[++message.seq] = message.content.length;
      this.#watching(conversation_id, {
        ...{ type: "chat.notice", message_id: message.id, seq: message.seq, notice: reply.notice },
      });
    }
    for (const text of reply.pieces ?? []) {
      if (this.#stopped.has(message.id) || this.#app !== app) break;
      message.content += text;
      offsets[++message.seq] = message.content.length;
      const { seq } = message;
      if (this.stutter && seq % 7 === 3) continue;
      const from = offsets[Math.max(0, seq - (this.stutter && seq % 7 !== 4 ? 3 : 1))];
      this.#watching(conversation_id, {
        ...{ type: "chat.delta", message_id: message.id, seq },
        ...{ offset: from, text: message.content.slice(from) },
      });
      await sleep(reply.gapMs ?? 1);
    }
    while (reply.hold && !this.#stopped.has(message.id) && this.#app === app) await sleep(20);
    if (this.#app !== app || message.status !== "streaming") return;
    this.#end(message, reply);
  }

  #end(message: Message, reply: Reply): void {
    const stopped = this.#stopped.delete(message.id);
    const tokens = tokensOf(message.content);
    Object.assign(message, {
      ...{ status: stopped ? "stopped" : reply.error ? "error" : "complete", error: reply.error ?? null },
      ...{
        finish_reason: stopped ? "abort" : reply.error ? "error" : (reply.finish ?? "stop"),
        seq: message.seq + 1,
      },
      ...{ model: reply.model ?? message.model, model_version: "1", provider: reply.provider ?? "local" },
      ...{ usage: { prompt_tokens: 40, completion_tokens: tokens, cached_tokens: 0, estimated: false } },
      ...{ cost_microusd: reply.provider ? null : 0, ttft_ms: 41, total_ms: 600, tokens_per_second: 118 },
    });
    this.#offsets.get(message.id)![message.seq] = message.content.length;
    const conversation = this.conversations.get(message.conversation_id);
    if (conversation) conversation.running = false;
    const event = this.#ended(message);
    this.#all(event);
    this.#streams.get(message.id)?.(event);
  }

  #ended(message: Message): ServerEvent {
    const { id, conversation_id, seq, error } = message;
    if (error || message.status === "interrupted") {
      const failure = error ?? { code: "interrupted", message: "The server ended.", retryable: true };
      return { type: "chat.error", request_id: null, conversation_id, message_id: id, seq, ...failure };
    }
    return {
      ...{ type: "chat.done", message_id: id, conversation_id, seq, finish_reason: message.finish_reason! },
      ...{ model: this.#hidden.has(id) ? "" : message.model!, model_version: message.model_version },
      ...{ provider: message.provider!, usage: message.usage!, cost_microusd: message.cost_microusd },
      ...{
        ttft_ms: message.ttft_ms,
        total_ms: message.total_ms!,
        tokens_per_second: message.tokens_per_second,
      },
      ...{ mean_logprob: -0.5, text_sha256: createHash("sha256").update(message.content).digest("hex") },
    };
  }
}
