import { describe, KilnError } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";

export const chatRoles = ["system", "user", "assistant", "tool"] as const;
export type ChatRole = (typeof chatRoles)[number];

/** A call of a function by the assistant. */
export interface ToolCall {
  id?: string;
  type: "function";
  /** The arguments as an object, not as JSON text: chat templates serialise them. */
  function: { name: string; arguments: Record<string, unknown> };
}

/**
 * One turn of a conversation. Fields are named as in OpenAI's API, which is also what chat templates expect. A message may
 * have further fields that only some templates use.
 */
export interface ChatMessage {
  role: ChatRole;
  /** Empty if the assistant only calls tools. */
  content: string;
  /** The name of the speaker or of the tool. */
  name?: string;
  tool_calls?: ToolCall[];
  /** The id of the call that a tool message answers. */
  tool_call_id?: string;
  /** 0 excludes an assistant turn from the training loss. */
  weight?: number;
}

/** A function that the assistant may call, with a JSON schema of its parameters. */
export interface ChatTool {
  type: "function";
  function: { name: string; description?: string; parameters?: unknown };
}

/** A conversation, in the one schema that chat logs, data cleaning, fine-tuning and the server share. */
export interface Conversation {
  messages: ChatMessage[];
  tools?: ChatTool[];
  /** Anything else known about it, such as an id, a source or a rating. Never shown to a model. */
  metadata?: Record<string, unknown>;
}

/** An invalid conversation, or one that a format or template cannot represent. */
export class ConversationError extends KilnError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: "bad_conversation", cause });
    this.name = "ConversationError";
  }
}

function refuse(where: string, wanted: string, got: unknown): never {
  throw new ConversationError(`${where} should be ${wanted}, got ${describe(got)}`);
}

function checkOptionalText(message: Record<string, unknown>, where: string): void {
  for (const key of ["name", "tool_call_id"])
    if (message[key] !== undefined && typeof message[key] !== "string")
      refuse(`${where}.${key}`, "text", message[key]);
}

function checkFunction(value: unknown, where: string, isCall: boolean): void {
  const named = isObject(value) && value.type === "function" ? value.function : undefined;
  if (!isObject(named) || typeof named.name !== "string" || named.name === "")
    refuse(where, 'an object {type: "function", function: {name, …}}', value);
  if (isCall && !isObject(named.arguments))
    refuse(`${where}.function.arguments`, "a JSON object", named.arguments);
}

function checkList(value: unknown, where: string, check: (item: unknown, where: string) => void): void {
  if (!Array.isArray(value)) refuse(where, "a list", value);
  for (const [i, item] of value.entries()) check(item, `${where}[${i}]`);
}

function checkMessage(message: unknown, where: string): void {
  if (!isObject(message)) refuse(where, "an object with role and content", message);
  const { role, content, tool_calls: calls, weight } = message;
  if (!chatRoles.includes(role as ChatRole)) refuse(`${where}.role`, `one of ${chatRoles.join(", ")}`, role);
  if (typeof content !== "string") refuse(`${where}.content`, "text", content);
  checkOptionalText(message, where);
  if (calls !== undefined) {
    if (role !== "assistant") refuse(where, "the assistant's, since it calls tools", role);
    checkList(calls, `${where}.tool_calls`, (call, place) => checkFunction(call, place, true));
  }
  if (weight !== undefined && weight !== 0 && weight !== 1) refuse(`${where}.weight`, "0 or 1", weight);
}

/**
 * Validates a value as a conversation and returns it without copying.
 * @throws ConversationError that names the invalid field, such as `messages[2].content should be text, got 3`.
 */
export function checkConversation(value: unknown): Conversation {
  if (!isObject(value)) refuse("a conversation", "an object with messages", value);
  checkList(value.messages, "messages", checkMessage);
  if ((value.messages as unknown[]).length === 0) refuse("messages", "at least one message", "none");
  if (value.tools !== undefined)
    checkList(value.tools, "tools", (tool, where) => checkFunction(tool, where, false));
  if (value.metadata !== undefined && !isObject(value.metadata))
    refuse("metadata", "an object", value.metadata);
  return value as unknown as Conversation;
}
