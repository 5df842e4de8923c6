import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { StructuredOutput } from "../../engine/grammar/index.ts";
import type { Limits } from "../../limits.ts";
import { type ChatRequest, type MessageDelta, startChat } from "../../text/chat.ts";
import type { TextJob } from "../../text/job.ts";
import { finished, gathered, type Start, streamed, usageOf } from "../answer.ts";
import { badRequest, type HttpError } from "../errors.ts";
import { type Call, modelNamed, route } from "../route.ts";
import type { SseStream } from "../sse.ts";
import { conversationOf, toolChoiceOf } from "./messages.ts";
import { asChat, inputFields } from "./response_input.ts";
import { type ResponseEvent, ResponseWriter } from "./response_writer.ts";
import { flag, textFields, textOptions } from "./text_fields.ts";

const LOGPROBS = "message.output_text.logprobs";

function responseSchema(limits: Limits) {
  const others = {
    max_tokens: true,
    n: true,
    add_special_tokens: true,
    response_format: true,
    return_token_ids: true,
    prompt_logprobs: true,
  } as const;
  return z.object({
    ...z.object(textFields(limits)).omit(others).shape,
    ...inputFields,
    max_output_tokens: z.int().min(1).nullish(),
    top_logprobs: z.int().min(0).max(limits.topLogprobs).nullish(),
    include: z.array(z.literal(LOGPROBS, `can only hold ${LOGPROBS}`)).nullish(),
    text: z.looseObject({ format: textFormat.nullish() }).nullish(),
    metadata: z.record(z.string(), z.string()).nullish(),
    store: flag,
    stream_options: z.object({ include_obfuscation: flag }).nullish(),
    chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  });
}

const textFormat = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text") }),
  z.object({ type: z.literal("json_object") }),
  z.looseObject({ type: z.literal("json_schema"), name: z.string().nullish(), schema: z.unknown() }),
]);

type ResponseBody = z.infer<ReturnType<typeof responseSchema>>;

/** POST /v1/responses, in its text form: nothing is stored, so each request brings the whole conversation. */
export const responses = route({
  method: "POST",
  path: "/v1/responses",
  summary: "Answer a conversation, in OpenAI's later form",
  example: { model: "MODEL", input: "Hello." },
  schema: responseSchema,
  answer: "Response",
  event: "ResponseStreamEvent",
  advice: {
    length: "use max_output_tokens",
    prompt: "put everything into input and instructions",
    tools: "use tools and tool_choice",
    form: "use text.format",
    choices: "a response is one answer: ask again for another",
    ids: "use /v1/chat/completions",
  },
  handle: (call: Call<ResponseBody>) => {
    const { body, service, reply } = call;
    const frontend = modelNamed(service, body.model);
    const writer = new ResponseWriter(frontend.tokenizer, body.top_logprobs ?? 0);
    const start: Start<MessageDelta> = async (onDelta) => startChat(frontend, chatRequest(call), onDelta);
    return body.stream
      ? inEvents(start, body, writer, { reply, limits: service.limits })
      : inOne(start, body, writer, reply);
  },
});

function chatRequest(call: Call<ResponseBody>): ChatRequest {
  const { body } = call;
  if (body.store) {
    throw badRequest("store", "this server stores no responses: leave store out or set it to false");
  }
  const chat = asChat(body);
  const { stream_options: _, ...plain } = body;
  const wantsLogprobs = body.include?.includes(LOGPROBS) || body.top_logprobs != null;
  const structured = formOf(body);
  return {
    ...textOptions({ ...call, body: plain }),
    ...(structured === null ? {} : { structured }),
    conversation: conversationOf(chat),
    prompt_field: "input",
    tool_choice: toolChoiceOf(chat),
    max_tokens: body.max_output_tokens ?? null,
    logprobs: wantsLogprobs ? (body.top_logprobs ?? 0) : null,
  };
}

/** The form of the answer that `text.format` asks for. */
function formOf({ text }: ResponseBody): StructuredOutput | null {
  const format = text?.format ?? { type: "text" };
  const param = "text.format";
  if (format.type === "json_object") return { kind: "json_object", param };
  if (format.type !== "json_schema") return null;
  if (format.schema == null) throw badRequest(`${param}.schema`, `${param}.schema is missing`);
  return { kind: "json_schema", value: format.schema, param };
}

async function inOne(
  start: Start<MessageDelta>,
  body: ResponseBody,
  writer: ResponseWriter,
  reply: FastifyReply,
) {
  const { job, deltas } = await gathered(start, reply);
  for (const delta of deltas[0]) for (const _ of writer.write(delta));
  return responseBody(body, job, writer, ended(deltas[0]));
}

function inEvents(
  start: Start<MessageDelta>,
  body: ResponseBody,
  writer: ResponseWriter,
  { reply, limits }: { reply: FastifyReply; limits: Limits },
): Promise<FastifyReply> {
  let job: TextJob | null = null;
  let count = 0;
  const send = (stream: SseStream, event: ResponseEvent) => {
    stream.send({ ...event, sequence_number: count++ }, event.type);
  };
  const sendState = (stream: SseStream, type: string, state: ResponseState) => {
    send(stream, { type, response: responseBody(body, job!, writer, state) });
  };
  const run = async (stream: SseStream) => {
    const deltas: MessageDelta[] = [];
    const starting = start((_, delta) => {
      if (job === null) return;
      if (deltas.length === 0) {
        sendState(stream, "response.created", { status: "in_progress" });
        sendState(stream, "response.in_progress", { status: "in_progress" });
      }
      deltas.push(delta);
      for (const event of writer.write(delta)) send(stream, event);
    }).then((started) => {
      job = started;
      return started;
    });
    await finished(starting, reply);
    const state = ended(deltas);
    sendState(stream, `response.${state.status}`, state);
    stream.close();
  };
  const fail = (stream: SseStream, failure: HttpError) => {
    sendState(stream, "response.failed", { status: "failed", failure });
    stream.close();
  };
  return streamed(reply, limits, run, { fail });
}

interface ResponseState {
  readonly status: "in_progress" | "completed" | "incomplete" | "failed";
  readonly failure?: HttpError;
}

function ended(deltas: readonly MessageDelta[]): ResponseState {
  return { status: deltas.at(-1)!.finishReason === "length" ? "incomplete" : "completed" };
}

function responseBody(
  body: ResponseBody,
  job: TextJob,
  writer: ResponseWriter,
  { status, failure }: ResponseState,
) {
  return {
    id: `resp_${job.id}`,
    object: "response",
    created_at: job.created,
    status,
    background: false,
    error: failure === undefined ? null : { code: "server_error", message: failure.message },
    incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    metadata: body.metadata ?? {},
    model: body.model,
    output: writer.items,
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: null,
    store: false,
    temperature: body.temperature ?? 1,
    text: { format: body.text?.format ?? { type: "text" } },
    tool_choice: body.tool_choice ?? "auto",
    tools: body.tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? 1,
    truncation: "disabled",
    usage: status === "in_progress" ? null : responseUsage(job),
  };
}

function responseUsage(job: TextJob) {
  const { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details } = usageOf(job);
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: prompt_tokens_details,
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens,
  };
}
