import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import { alternatives } from "../../../app/chat/alternatives.ts";
import { type AnswerEnd, isEnd } from "../../../app/chat/generation.ts";
import { answerParams } from "../../../app/chat/params.ts";
import { countTokens } from "../../../app/chat/token_count.ts";
import type { ChatAccepted, ChatResult, TokensBody } from "../../../app/protocol.ts";
import { streamed } from "../../answer.ts";
import type { Route } from "../../route.ts";
import { EVENTS, type Framing } from "../../sse.ts";
import { type AppCall, appRoute, wholeOf } from "./app_route.ts";

/** Characters of a message; the model's context is mostly the nearer bound. */
const TEXT_CHARS = 1_000_000;
const id = z.string().min(1).max(100);
const model = z.string().min(1).max(200);
export const text = z.string().min(1).max(TEXT_CHARS);

/** Events of answers: the id of each is its `seq`, so that `Last-Event-ID` says where to go on. */
const NUMBERED: Framing = {
  ...EVENTS,
  frame: (data) => {
    const seq = (data as { seq?: number | null }).seq ?? null;
    return `${seq === null ? "" : `id: ${seq}\n`}${EVENTS.frame(data)}`;
  },
};

/** POST /api/chat with `query`: a message and its answer. */
export const chatByQuery: Route = appRoute({
  method: "POST",
  path: "/api/chat",
  summary: "Answer a message of a conversation that the server keeps",
  example: { user_id: "local", query: "Once upon a time", stream: true },
  schema: () =>
    z.object({
      user_id: z.string().min(1).max(100),
      query: text,
      messages: z.null("messages and query are two forms of this route: send one of them").optional(),
      conversation_id: id.nullish(),
      parent_id: id.nullish(),
      request_id: id.optional(),
      model: model.optional(),
      stream: z.boolean().optional(),
      retrieve: z.enum(["auto", "on", "off"]).optional(),
      params: answerParams.optional(),
      system: text.nullish(),
      consent: z.boolean().optional(),
      notice_id: id.nullish(),
    }),
  handle: async (call) => {
    const { body, application, userId } = call;
    const { query, conversation_id = null, parent_id, request_id, stream, system = null } = body;
    const accepted = await application.conversing.send(userId, {
      ...{ text: query, conversation_id, request_id: request_id ?? null },
      ...{ system, consent: body.consent ?? false, notice_id: body.notice_id ?? null },
      ...(parent_id === undefined ? {} : { parent_id }),
      ...(body.retrieve === undefined ? {} : { retrieve: body.retrieve }),
      ...(body.model === undefined ? {} : { model: body.model }),
      ...(body.params === undefined ? {} : { params: body.params as never }),
    });
    if (stream) return answerEvents(call, accepted.message_id, 0, accepted);
    return whole(call, accepted);
  },
});

/** Streams what comes of an answer after an event. The answer goes on when the client leaves. */
function answerEvents(call: AppCall<unknown>, messageId: string, after: number, accepted?: ChatAccepted) {
  const { application, userId, reply, service } = call;
  return streamed(
    reply,
    service.limits,
    async (stream) => {
      if (accepted !== undefined) stream.send(accepted);
      const { unfollow, ended } = await application.conversing.follow(userId, messageId, after, (event) =>
        stream.send(event),
      );
      if (reply.raw.destroyed) unfollow();
      reply.raw.once("close", unfollow);
      await ended;
      if (stream.opened) return stream.close();
      // The client has all of it: browsers do not come back after this.
      stream.dispose();
      await reply.code(204).send();
    },
    { framing: NUMBERED },
  );
}

/** Waits for an answer and gives it in one piece. @throws AppError where it failed. */
async function whole(
  { application, userId, chats, reply }: AppCall<unknown>,
  { message_id, conversation_id, trimmed }: ChatAccepted,
): Promise<ChatResult> {
  let end: AnswerEnd | null = null;
  const { unfollow, ended } = await application.conversing.follow(userId, message_id, 0, (event) => {
    if (isEnd(event)) end = event;
  });
  reply.raw.once("close", unfollow);
  await ended;
  const last = end as AnswerEnd | null;
  if (last?.type === "chat.error")
    throw new AppError(statusOf(last.code, last.retryable), last.code, last.message);
  const message = await chats.message(message_id);
  const usage = message.usage ?? {
    prompt_tokens: 0,
    completion_tokens: 0,
    cached_tokens: 0,
    estimated: false,
  };
  return {
    ...{ conversation_id, message_id, response: message.content, model: message.model ?? "" },
    ...{ citations: message.citations, usage, cost_microusd: message.cost_microusd, trimmed },
  };
}

const REFUSED = new Set(["invalid_request", "context_length_exceeded"]);

function statusOf(code: string, retryable: boolean): number {
  if (REFUSED.has(code)) return 400;
  if (code === "queue_full" || code === "upstream_rate_limited") return 429;
  if (/^upstream_(refused|key_refused|invalid|forbidden)$/.test(code)) return 502;
  return retryable ? 503 : 500;
}

/** GET /api/messages/:id/stream: an answer from an event on. */
const stream = appRoute({
  method: "GET",
  path: "/api/messages/:id/stream",
  summary: "The events of an answer after ?after= or Last-Event-ID",
  handle: (call) => {
    const last = call.reply.request.headers["last-event-id"];
    const seen = typeof last === "string" && /^\d{1,15}$/.test(last) ? Number(last) : 0;
    const after = wholeOf(call as never, "after", seen, Number.MAX_SAFE_INTEGER);
    return answerEvents(call, call.params.id!, after);
  },
});

const stop = appRoute({
  method: "POST",
  path: "/api/messages/:id/stop",
  summary: "End an answer where it is; its text so far stays",
  status: 204,
  handle: ({ application, userId, params }) => application.conversing.stop(userId, params.id!),
});

const regenerate = appRoute({
  method: "POST",
  path: "/api/messages/:id/regenerate",
  summary: "Another answer beside this one",
  example: { request_id: "REQUEST" },
  schema: () =>
    z.object({
      request_id: id,
      model: model.optional(),
      params: answerParams.optional(),
      user_id: id.optional(),
    }),
  status: 202,
  handle: ({ application, userId, params: { id: message }, body }) =>
    application.conversing.regenerate(userId, message!, body as never),
});

const goOn = appRoute({
  method: "POST",
  path: "/api/messages/:id/continue",
  summary: "Go on writing an answer that was cut short",
  status: 202,
  handle: ({ application, userId, params }) => application.conversing.continue(userId, params.id!),
});

const edit = appRoute({
  method: "PATCH",
  path: "/api/messages/:id",
  summary: "A message beside this one, with another text",
  example: { content: "What I meant to ask." },
  schema: () => z.object({ content: text }),
  status: 201,
  handle: ({ chats, params, body }) => chats.edit(params.id!, body.content),
});

const tokens = appRoute({
  method: "POST",
  path: "/api/tokens",
  summary: "How many tokens a message would come to, with what is sent before it",
  example: { model: "MODEL", text: "Once upon a time" },
  schema: () =>
    z.object({
      ...{ model, text: z.string().max(TEXT_CHARS), system: z.string().max(TEXT_CHARS).nullish() },
      ...{ conversation_id: id.nullish(), parent_id: id.nullish() },
    }),
  handle: ({ application: { store, source }, userId, body }) =>
    countTokens(store, source, userId, body as TokensBody),
});

const why = appRoute({
  method: "GET",
  path: "/api/messages/:id/alternatives",
  summary: "The tokens of an answer, and the ?top= likeliest in the place of each",
  handle: async (call) => {
    const top = wholeOf(call as never, "top", 5, 20);
    const message = await call.chats.message(call.params.id!);
    return alternatives(call.application, call.service.models, call.userId, message, top);
  },
});

export const answerRoutes: readonly Route[] = [stream, stop, regenerate, goOn, edit, tokens, why];
