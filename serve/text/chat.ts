import { isObject } from "../../core/platform/files.ts";
import {
  ChatTemplate,
  type ChatTool,
  type Conversation,
  ConversationError,
  type Tokenizer,
} from "../../tokenizer/index.ts";
import { invalid } from "../engine/errors.ts";
import type { StructuredOutput } from "../engine/grammar/index.ts";
import type { ChoiceDelta } from "./choice.ts";
import type { Frontend } from "./frontend.ts";
import type { TextJob } from "./job.ts";
import type { TextRequest } from "./request.ts";
import {
  ArgumentsReader,
  CALL_LIST,
  type CallPiece,
  type CallReader,
  noCalls,
  ToolCallReader,
  toolFormatOf,
} from "./tool_calls.ts";
import { within } from "./within.ts";

/** An answer to a conversation, whichever protocol asked. */
export interface ChatRequest extends Omit<TextRequest, "prompts" | "echo"> {
  readonly conversation: Conversation;
  /** Whether the answer begins a turn of the assistant; default true. */
  readonly add_generation_prompt?: boolean | null;
  /** Whether the answer continues the last message, whose turn is left open; default false. */
  readonly continue_final_message?: boolean | null;
  /** Further variables of the chat template. */
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null;
  /** Whether the model may call the conversation's tools, or must call one, or this one; default `auto`. */
  readonly tool_choice?: ToolChoice;
  /** Whether an answer may hold several calls; default true. */
  readonly parallel_tool_calls?: boolean | null;
}

export type ToolChoice = "none" | "auto" | "required" | { readonly name: string };

/** A piece of one choice's message. */
export interface MessageDelta extends Omit<ChoiceDelta, "text" | "finishReason"> {
  readonly content: string;
  readonly calls: readonly CallPiece[];
  readonly finishReason: "stop" | "length" | "tool_calls" | null;
}

/** Hears each piece of each choice. */
export type MessageListener = (index: number, delta: MessageDelta) => void;

/**
 * Renders a conversation with the model's chat template and starts the answer. Special tokens count only where the template
 * writes them, never in a message.
 * @throws RequestError as `Frontend.start`, and for a model without a template or a conversation that it refuses.
 */
export async function startChat(
  frontend: Frontend,
  request: ChatRequest,
  onDelta: MessageListener,
): Promise<TextJob> {
  const { conversation, ...rest } = request;
  // A full queue is told before anything is rendered.
  frontend.engine.checkRoom(request.client, request.n ?? 1, 0);
  const { pieces, reader, marksAreSpecial } = chatPrompt(frontend.tokenizer, request);
  const forced = forcedCalls(conversation.tools ?? [], request);
  const readers: CallReader[] = [];
  return frontend.start(
    {
      ...rest,
      prompts: [{ pieces }],
      prompt_field: messagesField(request),
      ...(marksAreSpecial ? { skip_special_tokens: false } : {}),
      ...(forced === null ? {} : { structured: forced }),
    },
    (index, delta) => {
      readers[index] ??= reader();
      onDelta(index, messageDelta(readers[index], delta));
    },
  );
}

/** The prompt that a conversation makes, and how to read its answers. @throws RequestError. */
export function chatPrompt(tokenizer: Tokenizer, request: Omit<ChatRequest, "client">) {
  const template = templateOf(tokenizer);
  const { conversation, tool_choice = "auto", parallel_tool_calls } = request;
  const { tools = [], ...others } = conversation;
  if (request.continue_final_message && (request.add_generation_prompt ?? true)) {
    throw invalid(
      "continue_final_message",
      "continue_final_message leaves no room for a new turn: set add_generation_prompt to false",
    );
  }
  const isOff = tools.length === 0 || tool_choice === "none";
  const format = isOff ? null : toolFormatOf(template.source);
  if (!isOff && format === null) {
    throw invalid("tools", "this model's chat template has no place for tools");
  }
  const names = new Set(tools.map((tool) => tool.function.name));
  const parallel = parallel_tool_calls ?? true;
  const reader = (): CallReader => {
    if (format === null) return noCalls;
    if (typeof tool_choice === "object") return new ArgumentsReader(tool_choice.name);
    return new ToolCallReader(tool_choice === "required" ? CALL_LIST : format, { names, parallel });
  };
  const pieces = rendered(template, isOff ? others : conversation, request);
  const isSpecial = (mark: string) => tokenizer.isSpecial(tokenizer.tokenToId(mark) ?? -1);
  return { pieces, reader, marksAreSpecial: format?.opens.some(isSpecial) ?? false };
}

/** The form of an answer that must call tools: the arguments of one, or a list of calls. */
function forcedCalls(
  tools: readonly ChatTool[],
  { tool_choice = "auto", parallel_tool_calls }: Omit<ChatRequest, "client">,
): StructuredOutput | null {
  const parametersOf = ({ function: { parameters } }: ChatTool) => parameters ?? { type: "object" };
  const form = (value: unknown): StructuredOutput => ({ kind: "json_schema", value, param: "tools" });
  if (typeof tool_choice === "object") {
    const named = tools.find((tool) => tool.function.name === tool_choice.name);
    return named === undefined ? null : form(parametersOf(named));
  }
  if (tool_choice !== "required") return null;
  const calls = tools.map((tool, i) => ({
    type: "object",
    properties: { name: { const: tool.function.name }, parameters: { $ref: `#/$defs/${i}` } },
    required: ["name", "parameters"],
    additionalProperties: false,
  }));
  return form({
    type: "array",
    minItems: 1,
    ...((parallel_tool_calls ?? true) ? {} : { maxItems: 1 }),
    items: { anyOf: calls },
    $defs: Object.fromEntries(tools.map((tool, i) => [i, moved(parametersOf(tool), `#/$defs/${i}`)])),
  });
}

/** A schema whose references to itself are right once it stands at another place. */
function moved(schema: unknown, place: string): unknown {
  if (Array.isArray(schema)) return schema.map((item) => moved(item, place));
  if (!isObject(schema)) return schema;
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]) => [
      key,
      key === "$ref" && typeof value === "string" ? value.replace(/^#/, place) : moved(value, place),
    ]),
  );
}

function rendered(
  template: ChatTemplate,
  conversation: Conversation,
  request: Omit<ChatRequest, "client">,
): (string | number)[] {
  const options = {
    addGenerationPrompt: request.add_generation_prompt ?? true,
    continueFinalMessage: request.continue_final_message ?? false,
    variables: request.chat_template_kwargs ?? {},
  };
  const field = messagesField(request);
  const made = told(field, () => within(TEMPLATE_MS, () => template.render(conversation, options)));
  if (made !== null) return made.result.pieces;
  throw invalid(field, `the chat template does not end within ${TEMPLATE_MS / 1000} s on this conversation`);
}

/** What a template may take: it is a program of the model's folder, and nobody is served while it runs. */
const TEMPLATE_MS = 2000;

/** What `work` gives; what it has against the conversation or the template is refused. */
function told<T>(field: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof ConversationError) throw invalid(field, error.message);
    throw error;
  }
}

/** What refusals call the conversation. */
function messagesField({ prompt_field = "messages" }: Omit<ChatRequest, "client">): string {
  return prompt_field;
}

/** What is wrong with a model's chat template, told when it is loaded: only its chats fail of it. Null: nothing. */
export function templateProblem(tokenizer: Tokenizer): string | null {
  try {
    if (tokenizer.chatTemplate !== null) templateOf(tokenizer);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

const templates = new WeakMap<Tokenizer, ChatTemplate>();

function templateOf(tokenizer: Tokenizer): ChatTemplate {
  if (tokenizer.chatTemplate === null) {
    throw invalid(
      "model",
      "this model has no chat template, so it cannot tell who says what: send the text as a completion, or add chat_template.jinja to the model's folder",
    );
  }
  const known = templates.get(tokenizer) ?? told("model", () => new ChatTemplate(tokenizer));
  templates.set(tokenizer, known);
  return known;
}

function messageDelta(reader: CallReader, { text, finishReason, ...rest }: ChoiceDelta): MessageDelta {
  const read = reader.push(text);
  const last = finishReason === null ? null : reader.flush();
  const isCall = finishReason === "stop" && reader.count > 0 && reader.isWhole;
  return {
    ...rest,
    content: read.content + (last?.content ?? ""),
    calls: joined([...read.calls, ...(last?.calls ?? [])]),
    finishReason: isCall ? "tool_calls" : finishReason,
  };
}

/** One piece for each call. */
function joined(pieces: readonly CallPiece[]): CallPiece[] {
  const byIndex = new Map<number, CallPiece>();
  for (const piece of pieces) {
    const before = byIndex.get(piece.index);
    byIndex.set(piece.index, { ...before, ...piece, arguments: (before?.arguments ?? "") + piece.arguments });
  }
  return [...byIndex.values()];
}
