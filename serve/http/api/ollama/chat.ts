import { z } from "zod";
import { isObject } from "../../../../core/platform/files.ts";
import type { ChatMessage, ChatTool, Conversation } from "../../../../tokenizer/index.ts";
import type { Limits } from "../../../limits.ts";
import { type MessageDelta, startChat } from "../../../text/chat.ts";
import type { Frontend } from "../../../text/frontend.ts";
import { badRequest, HttpError } from "../../errors.ts";
import { type Call, modelNamed, route } from "../../route.ts";
import { chatByQuery } from "../app/answers.ts";
import { conversationFields } from "../messages.ts";
import { type AnswerWriter, answered, loaded } from "./answer.ts";
import { ADVICE, answerFields, answerOptions, knownName } from "./fields.ts";
import { logprobsOf } from "./generate.ts";

const call = z.looseObject({
  function: z.looseObject({ name: z.string().min(1), arguments: z.record(z.string(), z.unknown()) }),
});

const message = z.looseObject({
  role: z.enum(["system", "user", "assistant", "tool"]),
  content: z.string().nullish(),
  images: z.array(z.unknown()).max(0, "are not read: this model takes text only").nullish(),
  tool_calls: z.array(call).nullish(),
  tool_name: z.string().nullish(),
});

function chatSchema(limits: Limits) {
  return z.object({
    ...answerFields(limits),
    messages: z.array(message).nullish(),
    tools: conversationFields.tools,
    query: z.unknown().optional(),
  });
}

type ChatBody = z.infer<ReturnType<typeof chatSchema>>;

/** POST /api/chat with `messages`: Ollama's. */
export const chat = route({
  method: "POST",
  path: "/api/chat",
  summary: "Answer a conversation, as Ollama does",
  example: { model: "MODEL", messages: [{ role: "user", content: "Hello." }] },
  schema: chatSchema,
  advice: ADVICE,
  queryForm: chatByQuery,
  handle: (given: Call<ChatBody>) => {
    const { body, service } = given;
    refuseQuery(body);
    const frontend = modelNamed(service, knownName(service, body.model));
    if (!body.messages?.length) return loaded(given, { message: { role: "assistant", content: "" } });
    const conversation = conversationOf(body);
    const start = (onDelta: (index: number, delta: MessageDelta) => void) =>
      startChat(frontend, { ...answerOptions(given), conversation }, onDelta);
    return answered<MessageDelta>(given, start, new Message(given, frontend));
  },
});

/** Where the server has an application, a body with `query` does not come here. */
function refuseQuery({ query, messages }: ChatBody): void {
  if (query == null) return;
  if (messages != null)
    throw new HttpError(422, "messages and query are two forms of this route: send one of them", {
      param: "query",
    });
  throw badRequest("query", "query is for servers that keep conversations: send messages");
}

function conversationOf({ messages, tools }: ChatBody): Conversation {
  return {
    messages: messages!.map(
      ({ role, content, tool_calls, tool_name }): ChatMessage => ({
        ...{ role, content: content ?? "" },
        ...(tool_name == null ? {} : { name: tool_name }),
        ...(tool_calls?.length
          ? { tool_calls: tool_calls.map((one) => ({ type: "function" as const, function: one.function })) }
          : {}),
      }),
    ),
    ...(tools?.length ? { tools: tools as ChatTool[] } : {}),
  };
}

/** Puts a message into Ollama's form: tools are called with objects, so a call comes when it is complete. */
class Message implements AnswerWriter<MessageDelta> {
  readonly #body: ChatBody;
  readonly #frontend: Frontend;
  readonly #calls: { name: string; text: string }[] = [];

  constructor({ body }: Call<ChatBody>, frontend: Frontend) {
    this.#body = body;
    this.#frontend = frontend;
  }

  piece({ content, calls, logprobs, finishReason }: MessageDelta) {
    for (const { index, name, arguments: text } of calls) {
      this.#calls[index] ??= { name: name ?? "", text: "" };
      this.#calls[index].text += text;
    }
    const ended = finishReason === null ? {} : this.#takeCalls();
    const said = content + (ended.content ?? "");
    if (said === "" && !ended.tool_calls && !logprobs?.length) return null;
    const calling = ended.tool_calls ? { tool_calls: ended.tool_calls } : {};
    return {
      message: { role: "assistant", content: said, ...calling },
      ...logprobsOf(this.#frontend, this.#body, logprobs),
    };
  }

  last() {
    return { message: { role: "assistant", content: "" } };
  }

  whole(deltas: readonly MessageDelta[]) {
    const pieces = deltas.flatMap((delta) => this.piece(delta) ?? []);
    const tool_calls = pieces.flatMap(({ message: { tool_calls: calls } }) => calls ?? []);
    const logprobs = deltas[0]?.logprobs && deltas.flatMap((delta) => delta.logprobs ?? []);
    return {
      message: {
        role: "assistant",
        content: pieces.map(({ message: { content } }) => content).join(""),
        ...(tool_calls.length > 0 ? { tool_calls } : {}),
      },
      ...logprobsOf(this.#frontend, this.#body, logprobs ?? null),
    };
  }

  /** The calls; one that was cut off before its end comes as the text that it is. */
  #takeCalls(): { tool_calls?: { function: { name: string; arguments: object } }[]; content?: string } {
    let content = "";
    const calls = this.#calls.flatMap(({ name, text }) => {
      const args = parsed(text);
      if (args !== null) return [{ function: { name, arguments: args } }];
      content += `${name} ${text}`;
      return [];
    });
    return calls.length > 0 ? { content, tool_calls: calls } : { content };
  }
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
