import { describe } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";
import {
  type ChatMessage,
  type ChatRole,
  type Conversation,
  ConversationError,
  checkConversation,
  type ToolCall,
} from "./conversation.ts";
import { chatml, instruction, type RenderedLayout } from "./rendered.ts";
import { hasTurns, parseTranscript, transcript } from "./transcript.ts";

/** A row of a data file: a JSON object, or a table row keyed by column name. */
export type Row = Record<string, unknown>;

/** A common layout of chat data. */
interface ChatFormat {
  /** Fields that the format defines. All others are metadata. */
  fields: readonly string[];
  /** Whether a row has the fields of this format. */
  fits(row: Row): boolean;
  /** Throws ConversationError. */
  read(row: Row): { messages: unknown[]; tools?: unknown };
  /** Throws ConversationError if the format cannot represent the conversation. */
  write(conversation: Conversation): Row;
}

export type ChatFormatName =
  | "openai"
  | "sharegpt"
  | "alpaca"
  | "dolly"
  | "prompt"
  | "chatml"
  | "instruction"
  | "text";

function isPresent(row: Row, ...keys: string[]): boolean {
  return keys.every((key) => row[key] !== undefined && row[key] !== null);
}

/** The text of a field. A missing or null field is "", or an error if it is required. */
function textOf(row: Row, key: string, isRequired = false): string {
  const value = row[key] ?? "";
  if (typeof value !== "string") throw new ConversationError(`${key} should be text, got ${describe(value)}`);
  if (isRequired && value.trim() === "")
    throw new ConversationError(`${key} is empty; fill it in or leave the row out`);
  return value;
}

function parsed(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConversationError(
      `${what} is not valid JSON: ${(error as Error).message.split("\n")[0]}`,
      error,
    );
  }
}

/** A call as {type, function: {name, arguments}}. The arguments may be given as an object or as JSON text. */
function toolCall(value: unknown): unknown {
  if (!isObject(value)) return value;
  const named = isObject(value.function) ? value.function : value;
  const given = named.arguments ?? {};
  const args = typeof given === "string" ? parsed(given, `arguments of ${named.name}`) : given;
  const id = value.id === undefined ? {} : { id: value.id };
  return { ...id, type: "function", function: { name: named.name, arguments: args } };
}

/** Tools as a list of {type, function}. They may be given as JSON text. */
function toolList(row: Row): { tools?: unknown } {
  const { tools } = row;
  if (tools === undefined || tools === null || tools === "") return {};
  const list = typeof tools === "string" ? parsed(tools, "tools") : tools;
  if (!Array.isArray(list)) return { tools: list };
  if (list.length === 0) return {};
  return {
    tools: list.map((tool) =>
      isObject(tool) && !("function" in tool) ? { type: "function", function: tool } : tool,
    ),
  };
}

/** Content as text: null becomes "", and text parts are joined. */
function contentOf(content: unknown, where: string): unknown {
  if (content === null || content === undefined) return "";
  if (!Array.isArray(content)) return content;
  return content
    .map((part) => {
      if (isObject(part) && part.type === "text" && typeof part.text === "string") return part.text;
      const what = isObject(part) ? `a part of type ${describe(part.type)}` : describe(part);
      throw new ConversationError(`${where}.content holds ${what}; only text can be learned`);
    })
    .join("");
}

/** The role for each name in use. */
const roleNames: Record<string, ChatRole> = {
  ...{ system: "system", developer: "system" },
  ...{ user: "user", human: "user", prompter: "user" },
  ...{ assistant: "assistant", gpt: "assistant", chatgpt: "assistant", bot: "assistant", model: "assistant" },
  ...{ bard: "assistant", bing: "assistant", function_call: "assistant" },
  ...{ tool: "tool", function: "tool", observation: "tool" },
};

function roleOf(name: unknown): unknown {
  return typeof name === "string" && Object.hasOwn(roleNames, name) ? roleNames[name] : name;
}

/** A message with OpenAI's fields (role, content) or ShareGPT's (from, value). */
function message(value: unknown, where: string): unknown {
  if (!isObject(value)) return value;
  const from = value.role ?? value.from;
  const content = contentOf(value.content ?? value.value, where);
  if (from === "function_call" && typeof content === "string")
    return {
      role: "assistant",
      content: "",
      tool_calls: [parsed(content, `${where}.value`)].flat().map(toolCall),
    };
  const calls = value.tool_calls ?? (value.function_call == null ? [] : [value.function_call]);
  // Fields that only some templates use, such as reasoning_content, are kept.
  const own = ["role", "from", "content", "value", "tool_calls", "function_call"];
  const others = Object.entries(value).filter(([key, given]) => !own.includes(key) && given != null);
  return {
    role: roleOf(from),
    content,
    ...Object.fromEntries(others),
    ...(!(Array.isArray(calls) && calls.length === 0) && {
      tool_calls: Array.isArray(calls) ? calls.map(toolCall) : calls,
    }),
  };
}

/** Tables hold a list as JSON text. */
function messageList(row: Row, key: string): unknown[] {
  const given = row[key];
  const list = typeof given === "string" && /^\s*\[/.test(given) ? parsed(given, key) : given;
  if (!Array.isArray(list)) throw new ConversationError(`${key} should be a list, got ${describe(list)}`);
  return list.map((value, i) => message(value, `${key}[${i}]`));
}

/** An optional system message and (user, assistant) turns, which is all that the simple formats can represent. */
function plainTurns(conversation: Conversation, name: string): { system: string; turns: [string, string][] } {
  const { messages, tools } = conversation;
  const [first, ...later] = messages;
  const rest = first.role === "system" ? later : messages;
  const isPlain = (one: ChatMessage, i: number) =>
    one.role === (i % 2 === 0 ? "user" : "assistant") && Object.keys(one).length === 2;
  if (tools || rest.length === 0 || rest.length % 2 === 1 || !rest.every(isPlain)) {
    throw new ConversationError(
      `the ${name} format holds questions and answers in turn and nothing else; write this conversation as openai`,
    );
  }
  const turns = Array.from({ length: rest.length / 2 }, (_, i): [string, string] => [
    rest[2 * i].content,
    rest[2 * i + 1].content,
  ]);
  return { system: first.role === "system" ? first.content : "", turns };
}

/** The one question and answer that the `prompt` and `dolly` formats consist of. */
function onlyTurn(conversation: Conversation, name: string): [question: string, answer: string] {
  const { system, turns } = plainTurns(conversation, name);
  if (system === "" && turns.length === 1) return turns[0];
  throw new ConversationError(
    `the ${name} format holds one question and its answer; write this conversation as openai or alpaca`,
  );
}

function asked(question: string, answer: string): ChatMessage[] {
  return [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ];
}

function systemFirst(system: string): ChatMessage[] {
  return system === "" ? [] : [{ role: "system", content: system }];
}

/** An instruction and its context as one question. */
function question(row: Row, context: string): string {
  const about = textOf(row, context);
  return textOf(row, "instruction", true) + (about === "" ? "" : `\n\n${about}`);
}

function withJsonArguments(call: ToolCall): unknown {
  return { ...call, function: { ...call.function, arguments: JSON.stringify(call.function.arguments) } };
}

/** The earlier turns of an Alpaca row. */
function history(row: Row): ChatMessage[] {
  const pairs = row.history ?? [];
  const isPair = (pair: unknown) =>
    Array.isArray(pair) && pair.length === 2 && pair.every((text) => typeof text === "string");
  if (!Array.isArray(pairs) || !pairs.every(isPair))
    throw new ConversationError(`history should be a list of [question, answer], got ${describe(pairs)}`);
  return pairs.flatMap(([ask, answer]: [string, string]) => asked(ask, answer));
}

function shareGptTurn({ role, content, tool_calls: calls, ...others }: ChatMessage): Row {
  const names = { system: "system", user: "human", assistant: "gpt", tool: "observation" };
  if (calls && content === "") {
    const list = calls.map((call) => call.function);
    return { from: "function_call", value: JSON.stringify(list.length === 1 ? list[0] : list) };
  }
  if (calls) {
    throw new ConversationError(
      "the sharegpt format has no place for text beside a tool call; write this conversation as openai",
    );
  }
  return { from: names[role], value: content, ...others };
}

/** Rows whose field `text` has a layout. */
const rendered = (layout: RenderedLayout): ChatFormat => ({
  fields: ["text"],
  fits: ({ text }) => typeof text === "string" && layout.fits(text),
  read: (row) => ({ messages: layout.read(textOf(row, "text", true)) }),
  write: (conversation) => ({ text: layout.write(conversation) }),
});

/** In order of detection, the most specific fields first. */
const formats: Record<ChatFormatName, ChatFormat> = {
  openai: {
    fields: ["messages", "tools"],
    fits: (row) => isPresent(row, "messages"),
    read: (row) => ({ messages: messageList(row, "messages"), ...toolList(row) }),
    write: ({ messages, tools }) => ({
      messages: messages.map(({ tool_calls: calls, ...rest }) => ({
        ...rest,
        ...(calls && { tool_calls: calls.map(withJsonArguments) }),
      })),
      ...(tools && { tools }),
    }),
  },
  sharegpt: {
    fields: ["conversations", "system", "tools"],
    fits: (row) => isPresent(row, "conversations"),
    read: (row) => ({
      messages: [...systemFirst(textOf(row, "system")), ...messageList(row, "conversations")],
      ...toolList(row),
    }),
    write: ({ messages, tools }) => ({ conversations: messages.map(shareGptTurn), ...(tools && { tools }) }),
  },
  alpaca: {
    fields: ["instruction", "input", "output", "system", "history"],
    fits: (row) => isPresent(row, "instruction", "output"),
    read: (row) => ({
      messages: [
        ...systemFirst(textOf(row, "system")),
        ...history(row),
        ...asked(question(row, "input"), textOf(row, "output", true)),
      ],
    }),
    write: (conversation) => {
      const { system, turns } = plainTurns(conversation, "alpaca");
      const [instruction, output] = turns.at(-1)!;
      return {
        instruction,
        input: "",
        output,
        ...(system !== "" && { system }),
        ...(turns.length > 1 && { history: turns.slice(0, -1) }),
      };
    },
  },
  dolly: {
    fields: ["instruction", "context", "response"],
    fits: (row) => isPresent(row, "instruction", "response"),
    read: (row) => ({ messages: asked(question(row, "context"), textOf(row, "response", true)) }),
    write: (conversation) => {
      const [instruction, response] = onlyTurn(conversation, "dolly");
      return { instruction, context: "", response };
    },
  },
  prompt: {
    fields: ["prompt", "completion", "response"],
    fits: (row) => isPresent(row, "prompt", "completion") || isPresent(row, "prompt", "response"),
    read: (row) => {
      const answer = isPresent(row, "completion") ? "completion" : "response";
      return {
        messages: Array.isArray(row.prompt)
          ? [...messageList(row, "prompt"), ...messageList(row, answer)]
          : asked(textOf(row, "prompt", true), textOf(row, answer, true)),
      };
    },
    write: (conversation) => {
      const [prompt, completion] = onlyTurn(conversation, "prompt");
      return { prompt, completion };
    },
  },
  chatml: rendered(chatml),
  instruction: rendered(instruction),
  text: {
    fields: ["text"],
    fits: ({ text }) => typeof text === "string" && hasTurns(text),
    read: (row) => ({ messages: parseTranscript(textOf(row, "text", true)) }),
    write: (conversation) => ({ text: transcript(conversation) }),
  },
};

export const chatFormatNames = Object.keys(formats) as ChatFormatName[];

const wanted =
  "messages; conversations; instruction and output; instruction and response; prompt and completion or response; or text in ChatML, with headings ### Instruction: and ### Response:, or with lines User: and Assistant:";

/** The format of a row, by its fields. Throws ConversationError if it matches none. */
export function detectChatFormat(row: unknown): ChatFormatName {
  const found = isObject(row) ? chatFormatNames.find((name) => formats[name].fits(row)) : undefined;
  if (found !== undefined) return found;
  const has = isObject(row) ? `the fields ${Object.keys(row).join(", ") || "(none)"}` : describe(row);
  throw new ConversationError(`no chat format has ${has}; give one of: ${wanted}`);
}

/**
 * Reads a row as a conversation. Fields that the format does not define become metadata. An instruction and its input or
 * context become one question, separated by an empty line.
 * @throws ConversationError if the row has another format, or a field is missing or of the wrong type.
 */
export function readConversation(row: unknown, format: ChatFormatName = detectChatFormat(row)): Conversation {
  const { fields, fits, read } = formats[format];
  if (!isObject(row) || !fits(row)) {
    const has = isObject(row) ? Object.keys(row).join(", ") : describe(row);
    throw new ConversationError(`this is no ${format} row: it has ${has}, not ${fields.join(", ")}`);
  }
  const metadata = Object.entries(row).filter(([key, value]) => !fields.includes(key) && value !== undefined);
  return checkConversation({
    ...read(row),
    ...(metadata.length > 0 && { metadata: Object.fromEntries(metadata) }),
  });
}

/**
 * Reads rows that all have the same format: the one given, or that of the first row.
 * @param source where the rows come from, for error messages
 * @throws ConversationError that names the source and the row, counted from 1.
 */
export function* readConversations(
  rows: Iterable<unknown>,
  { format, source = "the data" }: { format?: ChatFormatName; source?: string } = {},
): Generator<Conversation> {
  let known = format;
  let number = 0;
  for (const row of rows) {
    number++;
    try {
      known ??= detectChatFormat(row);
      yield readConversation(row, known);
    } catch (error) {
      if (!(error instanceof ConversationError)) throw error;
      throw new ConversationError(`row ${number} of ${source}: ${error.message}`, error);
    }
  }
}

/**
 * Writes a conversation as a row of a format, with its metadata as further fields.
 * @throws ConversationError if the format cannot represent the conversation. Only openai can represent every one.
 */
export function writeConversation(conversation: Conversation, format: ChatFormatName): Row {
  const { fields, write } = formats[format];
  const { metadata = {} } = conversation;
  const clash = fields.find((field) => metadata[field] !== undefined);
  if (clash === undefined) return { ...metadata, ...write(conversation) };
  throw new ConversationError(
    `the metadata has a field ${clash}, which the ${format} format has for something else; rename or drop it`,
  );
}
