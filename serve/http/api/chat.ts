import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { Tokenizer } from "../../../tokenizer/index.ts";
import type { Limits } from "../../limits.ts";
import { type ChatRequest, type MessageDelta, type MessageListener, startChat } from "../../text/chat.ts";
import type { ShownToken } from "../../text/choice.ts";
import type { TextJob } from "../../text/job.ts";
import type { CallPiece } from "../../text/tool_calls.ts";
import { type ChunkWriter, gathered, type Start, streamedChunks, usageOf } from "../answer.ts";
import { badRequest } from "../errors.ts";
import { type Call, modelNamed, route } from "../route.ts";
import { promptLogprobs, tokenLogprobs } from "../token_logprobs.ts";
import { conversationFields, conversationOf, toolChoiceOf } from "./messages.ts";
import { flag, textFields, textOptions } from "./text_fields.ts";

function chatSchema(limits: Limits) {
  const { add_special_tokens: _, ...shared } = textFields(limits);
  return z.object({
    ...shared,
    ...conversationFields,
    max_completion_tokens: z.int().min(0).nullish(),
    logprobs: flag,
    top_logprobs: z.int().min(0).max(limits.topLogprobs).nullish(),
    add_generation_prompt: flag,
    continue_final_message: flag,
    chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  });
}

type ChatBody = z.infer<ReturnType<typeof chatSchema>>;

/** POST /v1/chat/completions: in one piece or as a stream. */
export const chat = route({
  method: "POST",
  path: "/v1/chat/completions",
  summary: "Answer a conversation",
  example: { model: "MODEL", messages: [{ role: "user", content: "Hello." }] },
  schema: chatSchema,
  answer: "CreateChatCompletionResponse",
  event: "CreateChatCompletionStreamResponse",
  advice: {
    length: "use max_completion_tokens",
    prompt: "put everything into messages",
    tools: "use tools and tool_choice",
  },
  handle: (call: Call<ChatBody>) => {
    const { body, service, reply } = call;
    const frontend = modelNamed(service, body.model);
    const answer = new ChatAnswer(body, frontend.tokenizer);
    const start = async (onDelta: MessageListener) => startChat(frontend, chatRequest(call), onDelta);
    if (!body.stream) return inOne(start, answer, reply);
    return streamedChunks(start, answer, body.stream_options ?? {}, { reply, limits: service.limits });
  },
});

function chatRequest(call: Call<ChatBody>): ChatRequest {
  const { body } = call;
  const { logprobs, top_logprobs, max_tokens, max_completion_tokens } = body;
  if (top_logprobs != null && !logprobs) {
    throw badRequest("top_logprobs", "top_logprobs is allowed only with logprobs: true");
  }
  return {
    ...textOptions(call),
    conversation: conversationOf(body),
    tool_choice: toolChoiceOf(body),
    max_tokens: max_completion_tokens ?? max_tokens ?? null,
    logprobs: logprobs ? (top_logprobs ?? 0) : null,
  };
}

async function inOne(start: Start<MessageDelta>, answer: ChatAnswer, reply: FastifyReply) {
  const { job, deltas } = await gathered(start, reply);
  const { return_token_ids, prompt_logprobs } = answer.body;
  const ids = return_token_ids ? { prompt_token_ids: job.prompts[0].tokens } : {};
  const scores = prompt_logprobs == null ? {} : answer.promptLogprobs(job);
  return {
    ...answer.header(job, "chat.completion"),
    choices: deltas.map((pieces, index) => answer.whole(index, pieces)),
    usage: usageOf(job),
    ...ids,
    ...scores,
  };
}

/** Puts the pieces of an answer into OpenAI's form. */
class ChatAnswer implements ChunkWriter<MessageDelta> {
  readonly body: ChatBody;
  readonly #tokenizer: Tokenizer;

  constructor(body: ChatBody, tokenizer: Tokenizer) {
    this.body = body;
    this.#tokenizer = tokenizer;
  }

  header(job: TextJob, object = "chat.completion.chunk") {
    return { id: `chatcmpl-${job.id}`, object, created: job.created, model: this.body.model };
  }

  promptLogprobs(job: TextJob) {
    return { prompt_logprobs: promptLogprobs(this.#tokenizer, job.choices[0].promptScores) };
  }

  whole(index: number, deltas: readonly MessageDelta[]) {
    const { finishReason, stopReason } = deltas.at(-1)!;
    const content = deltas.map((delta) => delta.content).join("");
    const calls = joinCalls(deltas.flatMap((delta) => delta.calls));
    const tokens = deltas.flatMap((delta) => delta.logprobs ?? []);
    return {
      index,
      message: {
        role: "assistant",
        content: content === "" && calls.length > 0 ? null : content,
        refusal: null,
        ...(calls.length > 0 ? { tool_calls: calls } : {}),
      },
      logprobs: deltas[0].logprobs && this.#logprobs(tokens),
      finish_reason: finishReason,
      stop_reason: stopReason,
      ...(this.body.return_token_ids ? { token_ids: deltas.flatMap((delta) => delta.tokenIds) } : {}),
    };
  }

  /** The role before the first, the reason of the end after the last piece. */
  *choices(_job: TextJob, index: number, delta: MessageDelta, isFirst: boolean) {
    const ids = this.body.return_token_ids ? { token_ids: delta.tokenIds } : {};
    if (isFirst) yield chunk(index, { role: "assistant", content: "", refusal: null });
    const tokens = delta.logprobs ?? [];
    if (delta.content !== "" || delta.calls.length > 0 || tokens.length > 0) {
      const content = delta.content !== "" || delta.calls.length === 0 ? { content: delta.content } : {};
      const calls = delta.calls.length === 0 ? {} : { tool_calls: delta.calls.map(callChunk) };
      yield {
        ...chunk(index, { ...content, ...calls }),
        logprobs: delta.logprobs && this.#logprobs(tokens),
        ...ids,
      };
    }
    if (delta.finishReason === null) return;
    yield { ...chunk(index, {}), finish_reason: delta.finishReason, stop_reason: delta.stopReason };
  }

  #logprobs(tokens: readonly ShownToken[]) {
    return { content: tokenLogprobs(this.#tokenizer, tokens, this.body.top_logprobs ?? 0), refusal: null };
  }
}

function chunk(index: number, delta: Record<string, unknown>) {
  return { index, delta, logprobs: null as unknown, finish_reason: null as string | null };
}

function callChunk({ index, id, name, arguments: args }: CallPiece) {
  const head = id === undefined ? {} : { id, type: "function" };
  return { index, ...head, function: { ...(name === undefined ? {} : { name }), arguments: args } };
}

function joinCalls(pieces: readonly CallPiece[]) {
  const calls: { id: string; type: "function"; function: { name: string; arguments: string } }[] = [];
  for (const { index, id = "", name = "", arguments: args } of pieces) {
    calls[index] ??= { id, type: "function", function: { name, arguments: "" } };
    calls[index].function.arguments += args;
  }
  return calls;
}
