import { z } from "zod";
import { isObject } from "../../../core/platform/files.ts";
import type { ChatMessage, ChatTool, Conversation, ToolCall } from "../../../tokenizer/index.ts";
import type { ToolChoice } from "../../text/chat.ts";
import { badRequest } from "../errors.ts";

/** Text, or parts of text, whose types are given. */
export function contentOf(...types: readonly [string, ...string[]]) {
  const part = z.looseObject({ type: z.enum(types), text: z.string() });
  const error = ({ input }: { input?: unknown }) => {
    const items: unknown[] = Array.isArray(input) ? input : [];
    const other = items.filter(isObject).find(({ type }) => !types.includes(String(type)));
    return typeof other?.type === "string"
      ? `parts of type ${other.type.slice(0, 50)} are not read: this model takes text only`
      : `must be a string or a list of parts {type: "${types[0]}", text}`;
  };
  return z.union([z.string(), z.array(part)], { error });
}

const functionCall = z.looseObject({ name: z.string().min(1), arguments: z.string() });

const message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant", "tool"]),
  content: contentOf("text").nullish(),
  name: z.string().nullish(),
  tool_calls: z
    .array(z.looseObject({ id: z.string().nullish(), type: z.literal("function"), function: functionCall }))
    .nullish(),
  tool_call_id: z.string().nullish(),
});

const tool = z.looseObject({
  type: z.literal("function", "only tools of type function are called"),
  function: z.looseObject({
    name: z.string().regex(/^[\w.-]{1,64}$/, "must be 1 to 64 letters, digits, dots, dashes or underscores"),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
    strict: z.boolean().nullish(),
  }),
});

/** The fields that a conversation is made of. */
export const conversationFields = {
  messages: z.array(message).min(1, "must hold at least one message"),
  tools: z.array(tool).nullish(),
  tool_choice: z
    .union(
      [
        z.enum(["none", "auto", "required"]),
        z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: z.string() }) }),
      ],
      'must be "none", "auto", "required", or {type: "function", function: {name}}',
    )
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
};

export type Message = z.infer<typeof message>;
export type ConversationBody = z.infer<z.ZodObject<typeof conversationFields>>;

/** The conversation of a chat request. @throws HttpError for a message that says nothing. */
export function conversationOf({
  messages,
  tools,
}: Pick<ConversationBody, "messages" | "tools">): Conversation {
  return {
    messages: messages.map(chatMessage),
    ...(tools == null || tools.length === 0 ? {} : { tools: tools as ChatTool[] }),
  };
}

function chatMessage(given: Message, i: number): ChatMessage {
  const { role, content: said, tool_calls: calls, ...others } = given;
  const where = `messages.${i}`;
  const hasCalls = calls != null && calls.length > 0;
  if (hasCalls && role !== "assistant")
    throw badRequest(`${where}.tool_calls`, "only the assistant calls tools");
  if (said == null && !hasCalls) {
    throw badRequest(
      `${where}.content`,
      `${where}.content: may be null only where the assistant calls tools`,
    );
  }
  const named = Object.entries(others).filter(([, value]) => value != null);
  return {
    ...Object.fromEntries(named),
    role: role === "developer" ? "system" : role,
    content: textOf(said ?? ""),
    ...(hasCalls ? { tool_calls: calls.map((call, j) => toolCall(call, `${where}.tool_calls.${j}`)) } : {}),
  };
}

function textOf(said: NonNullable<Message["content"]>): string {
  return typeof said === "string" ? said : said.map(({ text }) => text).join("\n");
}

function toolCall(
  { id, function: called }: NonNullable<Message["tool_calls"]>[number],
  where: string,
): ToolCall {
  const field = `${where}.function.arguments`;
  let args: unknown;
  try {
    args = called.arguments.trim() === "" ? {} : JSON.parse(called.arguments);
  } catch {}
  if (!isObject(args)) throw badRequest(field, `${field}: must be a JSON object, as text`);
  return {
    ...(id == null ? {} : { id }),
    type: "function",
    function: { name: called.name, arguments: args },
  };
}

/** What `tool_choice` says. @throws HttpError for a choice of what there is not. */
export function toolChoiceOf({
  tools,
  tool_choice,
}: Pick<ConversationBody, "tools" | "tool_choice">): ToolChoice {
  const names = (tools ?? []).map((one) => one.function.name);
  if (tool_choice == null || tool_choice === "none" || tool_choice === "auto") return tool_choice ?? "auto";
  if (names.length === 0) throw badRequest("tool_choice", "tool_choice needs tools to choose from");
  if (tool_choice === "required") return tool_choice;
  const { name } = tool_choice.function;
  if (names.includes(name)) return { name };
  throw badRequest("tool_choice", `tool_choice names ${name.slice(0, 64)}, which is none of the tools`);
}
