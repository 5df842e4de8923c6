import { z } from "zod";
import { badRequest } from "../errors.ts";
import { type ConversationBody, contentOf, type Message } from "./messages.ts";

const content = contentOf("input_text", "output_text", "text");

/** A message; what else an item may be follows. */
const messageItem = z.looseObject({
  type: z.literal("message").nullish(),
  role: z.enum(["system", "developer", "user", "assistant"]),
  content,
});

const callItem = z.looseObject({
  type: z.literal("function_call"),
  call_id: z.string().min(1),
  name: z.string().min(1),
  arguments: z.string(),
});

const outputItem = z.looseObject({
  type: z.literal("function_call_output"),
  call_id: z.string().min(1),
  output: content,
});

const item = z.union([messageItem, callItem, outputItem], {
  error: ({ input }) => {
    const type = (input as { type?: unknown } | null)?.type;
    return typeof type === "string" && !["message", "function_call", "function_call_output"].includes(type)
      ? `items of type ${type.slice(0, 50)} are not read: this server takes messages and calls of functions`
      : "must be a message {role, content} of text, a function_call, or a function_call_output";
  },
});

const tool = z.looseObject({
  type: z.literal("function", "only tools of type function are called"),
  name: z.string().regex(/^[\w.-]{1,64}$/, "must be 1 to 64 letters, digits, dots, dashes or underscores"),
  description: z.string().nullish(),
  parameters: z.record(z.string(), z.unknown()).nullish(),
  strict: z.boolean().nullish(),
});

/** The fields of a response that a conversation is made of. */
export const inputFields = {
  input: z.union([
    z.string("must be a string or a list of messages").min(1, "must not be empty"),
    z.array(item).min(1, "must not be empty"),
  ]),
  instructions: z.string().nullish(),
  tools: z.array(tool).nullish(),
  tool_choice: z
    .union(
      [
        z.enum(["none", "auto", "required"]),
        z.looseObject({ type: z.literal("function"), name: z.string() }),
      ],
      'must be "none", "auto", "required", or {type: "function", name}',
    )
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
};

type InputBody = z.infer<z.ZodObject<typeof inputFields>>;

/** The same as the body of a chat request. @throws HttpError for a result without its call. */
export function asChat(body: InputBody): ConversationBody {
  const { input, instructions, tools, tool_choice: choice, parallel_tool_calls } = body;
  const messages: Message[] = instructions == null ? [] : [{ role: "developer", content: instructions }];
  if (typeof input === "string") messages.push({ role: "user", content: input });
  else for (const [i, one] of input.entries()) addItem(messages, one, i);
  return {
    messages,
    tools: tools?.map(({ type, ...named }) => ({ type, function: named })),
    tool_choice:
      typeof choice === "object" && choice !== null
        ? { type: "function", function: { name: choice.name } }
        : choice,
    parallel_tool_calls,
  };
}

type Item = Exclude<InputBody["input"], string>[number];

function addItem(messages: Message[], item: Item, i: number): void {
  if (item.type === "function_call") {
    const { call_id: id, name, arguments: args } = item as z.infer<typeof callItem>;
    const call = { id, type: "function" as const, function: { name, arguments: args } };
    const last = messages.at(-1);
    // The calls of one turn, and the text before them, are one message.
    if (last?.role === "assistant") last.tool_calls = [...(last.tool_calls ?? []), call];
    else messages.push({ role: "assistant", content: null, tool_calls: [call] });
  } else if (item.type === "function_call_output") {
    const { call_id, output } = item as z.infer<typeof outputItem>;
    const isKnown = messages.some(({ tool_calls }) => tool_calls?.some(({ id }) => id === call_id));
    if (!isKnown) {
      throw badRequest(
        `input.${i}.call_id`,
        `input.${i}.call_id: ${call_id.slice(0, 64)} is no call before it`,
      );
    }
    messages.push({ role: "tool", content: output, tool_call_id: call_id });
  } else {
    const { role, content: said } = item as z.infer<typeof messageItem>;
    messages.push({ role, content: said });
  }
}
