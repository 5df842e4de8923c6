import { z } from "zod";
import { AppError } from "../../../app/app_error.ts";
import { compare } from "../../../app/chat/compare.ts";
import { answerParams } from "../../../app/chat/params.ts";
import { prefer } from "../../../app/feedback.ts";
import type {
  CompareBody,
  ConversationPatch,
  FeedbackBody,
  NewConversation,
  PreferenceBody,
} from "../../../app/protocol.ts";
import type { Route } from "../../route.ts";
import { text } from "./answers.ts";
import { appRoute, limitOf, queryOf } from "./app_route.ts";

const title = z.string().trim().min(1).max(300).regex(/^.*$/, "must be one line");
const model = z.string().min(1).max(200);
const messageId = z.string().min(1).max(100);

const list = appRoute({
  method: "GET",
  path: "/api/conversations",
  summary: "Conversations, those that changed last first",
  handle: (call) => call.chats.list(limitOf(call as never), queryOf(call.reply.request).before ?? null),
});

const create = appRoute({
  method: "POST",
  path: "/api/conversations",
  summary: "A new conversation, without messages",
  example: { title: "Tales", consent: false },
  schema: () =>
    z.object({
      title: title.optional(),
      model: model.optional(),
      system: text.optional(),
      consent: z.boolean().optional(),
      user_id: z.string().max(100).optional(),
    }),
  status: 201,
  handle: ({ chats, body: { user_id: _, ...fields } }) => chats.create(fields as NewConversation),
});

const one = appRoute({
  method: "GET",
  path: "/api/conversations/:id",
  summary: "A conversation",
  handle: ({ chats, params }) => chats.get(params.id!),
});

const patch = appRoute({
  method: "PATCH",
  path: "/api/conversations/:id",
  summary: "Change a conversation, choose its branch, or take it out of the bin",
  example: { title: "Tales", pinned: true },
  schema: () =>
    z.object({
      title: title.optional(),
      model: model.optional(),
      system: text.nullable().optional(),
      pinned: z.boolean().optional(),
      consent: z.boolean().optional(),
      leaf_id: z.string().min(1).max(100).optional(),
      deleted: z.literal(false).optional(),
    }),
  handle: ({ chats, params, body }) => chats.patch(params.id!, body as ConversationPatch),
});

const remove = appRoute({
  method: "DELETE",
  path: "/api/conversations/:id",
  summary: "Put a conversation into the bin for 30 days",
  status: 204,
  handle: ({ chats, params }) => chats.remove(params.id!),
});

const messages = appRoute({
  method: "GET",
  path: "/api/conversations/:id/messages",
  summary: "The end of the branch that is shown, or what comes before the message ?before=",
  handle: (call) =>
    call.chats.messages(call.params.id!, limitOf(call as never), queryOf(call.reply.request).before ?? null),
});

const search = appRoute({
  method: "GET",
  path: "/api/search",
  summary: "Messages and titles that hold all words of ?q=",
  handle: (call) => {
    const { q } = queryOf(call.reply.request);
    if (q === undefined || q.length > 1000)
      throw new AppError(422, "invalid_query", "q: must be words to look for, 1000 characters at most", "q");
    return call.chats.search(q, limitOf(call as never));
  },
});

const feedback = appRoute({
  method: "POST",
  path: "/api/feedback",
  summary: "Rate an answer; rating 0 takes it back",
  example: { message_id: "MESSAGE", rating: 1 },
  schema: () =>
    z.object({
      message_id: messageId,
      rating: z.union([z.literal(-1), z.literal(0), z.literal(1)], "must be -1, 0 or 1"),
      reason: z
        .enum(["incorrect", "off_topic", "incomplete", "repetitive", "unsafe", "style", "other"])
        .nullish(),
      correction: text.nullish(),
    }),
  handle: ({ chats, body }) => chats.rate(body as FeedbackBody),
});

const preference = appRoute({
  method: "POST",
  path: "/api/preferences",
  summary: "Vote between answers to one message; of a blind comparison this tells who was who",
  example: {
    prompt_message_id: "MESSAGE",
    message_ids: ["ANSWER", "OTHER"],
    outcome: "chosen",
    chosen_message_id: "ANSWER",
    source: "arena",
  },
  schema: () =>
    z.object({
      prompt_message_id: messageId,
      message_ids: z.array(messageId).min(2).max(8),
      outcome: z.enum(["chosen", "tie", "both_bad"]),
      chosen_message_id: messageId.optional(),
      source: z.enum(["arena", "regenerate"]),
    }),
  handle: ({ application, userId, body }) => prefer(application.store, userId, body as PreferenceBody),
});

const comparison = appRoute({
  method: "POST",
  path: "/api/compare",
  summary: "One prompt to 2 to 4 models with the same parameters",
  example: { models: ["MODEL", "OTHER"], text: "Once upon a time", blind: true },
  schema: () =>
    z.object({
      models: z.array(model).min(2).max(4),
      text,
      params: answerParams.optional(),
      blind: z.boolean().optional(),
      consent: z.boolean().optional(),
      user_id: z.string().max(100).optional(),
    }),
  status: 202,
  handle: ({ application, userId, body: { user_id: _, ...body } }) =>
    compare(application, userId, body as CompareBody),
});

export const conversationRoutes: readonly Route[] = [
  ...[list, create, one, patch, remove, messages],
  ...[search, feedback, preference, comparison],
];
