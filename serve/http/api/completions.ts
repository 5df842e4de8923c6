import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { Tokenizer } from "../../../tokenizer/index.ts";
import type { Limits } from "../../limits.ts";
import { type ChoiceDelta, type ShownToken, tokenText } from "../../text/choice.ts";
import type { DeltaListener, TextJob } from "../../text/job.ts";
import type { TextRequest } from "../../text/request.ts";
import { type ChunkWriter, gathered, type Start, streamedChunks, usageOf } from "../answer.ts";
import { badRequest } from "../errors.ts";
import { type Call, modelNamed, route } from "../route.ts";
import { promptLogprobs } from "../token_logprobs.ts";
import { textList } from "./inputs.ts";
import { flag, textFields, textOptions } from "./text_fields.ts";

/** OpenAI's default for completions. */
const MAX_TOKENS_DEFAULT = 16;

/** The body's fields; the front end checks ranges. */
function completionSchema(limits: Limits) {
  return z.object({
    ...textFields(limits),
    prompt: z.unknown().optional(),
    best_of: z.int().min(0).max(limits.bestOf).nullish(),
    logprobs: z.int().min(0).max(limits.logprobs).nullish(),
    echo: flag,
  });
}

type CompletionBody = z.infer<ReturnType<typeof completionSchema>>;

/** POST /v1/completions: in one piece or as a stream. A client that leaves ends its request in the engine. */
export const completions = route({
  method: "POST",
  path: "/v1/completions",
  summary: "Continue a text",
  example: { model: "MODEL", prompt: "Once upon a time", max_tokens: 50 },
  schema: completionSchema,
  answer: "CreateCompletionResponse",
  event: "CompletionChunk",
  handle: (call: Call<CompletionBody>) => {
    const { body, service, reply } = call;
    const frontend = modelNamed(service, body.model);
    const answer = new Answer(body, frontend.tokenizer);
    const start = (onDelta: DeltaListener) => frontend.start(textRequest(call), onDelta);
    if (!body.stream) return inOne(start, answer, reply);
    return streamedChunks(start, answer, body.stream_options ?? {}, { reply, limits: service.limits });
  },
});

function textRequest(call: Call<CompletionBody>): TextRequest {
  const { body, service } = call;
  const { stream, n, best_of, logprobs, echo, max_tokens } = body;
  if (stream && best_of != null && best_of > (n ?? 1)) {
    throw badRequest("best_of", "best_of greater than n cannot be streamed");
  }
  return {
    ...textOptions(call),
    ...{ best_of, logprobs, echo },
    prompts: textList("prompt", body.prompt, service.limits.prompts),
    max_tokens: max_tokens ?? MAX_TOKENS_DEFAULT,
  };
}

async function inOne(start: Start<ChoiceDelta>, answer: Answer, reply: FastifyReply): Promise<string> {
  const { job, deltas } = await gathered(start, reply);
  const perPrompt = job.choices.length / job.prompts.length;
  const n = answer.body.n ?? 1;
  const choices: string[] = [];
  for (const promptIndex of job.prompts.keys()) {
    const indices = Array.from({ length: perPrompt }, (_, j) => promptIndex * perPrompt + j);
    if (perPrompt > n) indices.sort((a, b) => job.choices[b].meanLogprob - job.choices[a].meanLogprob);
    for (const index of indices.slice(0, n)) {
      // Log probabilities of many long prompts are megabytes: others have their turn between two choices.
      if (choices.length > 0) await nextTurn();
      const choice = answer.choice(choices.length, join(deltas[index]), job.prompts[promptIndex].tokens);
      choices.push(JSON.stringify({ ...choice, ...answer.promptLogprobs(job, index) }));
    }
  }
  reply.header("content-type", "application/json; charset=utf-8");
  const opening = JSON.stringify(answer.header(job)).slice(0, -1);
  return `${opening},"choices":[${choices.join(",")}],"usage":${JSON.stringify(usageOf(job))}}`;
}

/** Puts the pieces of an answer into OpenAI's form. */
class Answer implements ChunkWriter<ChoiceDelta> {
  readonly body: CompletionBody;
  readonly #tokenizer: Tokenizer;

  constructor(body: CompletionBody, tokenizer: Tokenizer) {
    this.body = body;
    this.#tokenizer = tokenizer;
  }

  header(job: TextJob) {
    return { id: `cmpl-${job.id}`, object: "text_completion", created: job.created, model: this.body.model };
  }

  choices(job: TextJob, index: number, delta: ChoiceDelta, isFirst: boolean) {
    const promptIndex = Math.floor((index * job.prompts.length) / job.choices.length);
    return [this.choice(index, delta, isFirst ? job.prompts[promptIndex].tokens : null)];
  }

  promptLogprobs(job: TextJob, index: number) {
    if (this.body.prompt_logprobs == null) return {};
    return { prompt_logprobs: promptLogprobs(this.#tokenizer, job.choices[index].promptScores) };
  }

  /** @param prompt the ids of the prompt, null after the first piece of a stream. */
  choice(index: number, delta: ChoiceDelta, prompt: readonly number[] | null) {
    const { text, finishReason, stopReason, tokenIds } = delta;
    const logprobs = delta.logprobs && this.#logprobs(delta.logprobs);
    const ids = this.body.return_token_ids ? { token_ids: tokenIds, prompt_token_ids: prompt } : {};
    return { index, text, logprobs, finish_reason: finishReason, stop_reason: stopReason, ...ids };
  }

  #logprobs(tokens: readonly ShownToken[]) {
    return {
      tokens: tokens.map(({ text }) => text),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      top_logprobs: tokens.map((token) => this.#topLogprobs(token)),
      text_offset: tokens.map(({ offset }) => offset),
    };
  }

  /** The likeliest tokens and the chosen one, by text; of two that read the same, the likelier counts. */
  #topLogprobs({ id, logprob, top }: ShownToken): Record<string, number> | null {
    if (logprob === null) return null;
    // Without a prototype, a token that reads "__proto__" is a key like any other.
    const byText: Record<string, number> = Object.create(null);
    for (const [other, value] of [...top, [id, logprob] as const]) {
      const text = tokenText(this.#tokenizer, other);
      byText[text] = Math.max(byText[text] ?? -Infinity, value);
    }
    return byText;
  }
}

/** All pieces of one choice as one. */
function join(deltas: readonly ChoiceDelta[]): ChoiceDelta {
  return {
    ...deltas.at(-1)!,
    text: deltas.map(({ text }) => text).join(""),
    logprobs: deltas[0].logprobs && deltas.flatMap(({ logprobs }) => logprobs ?? []),
    tokenIds: deltas.flatMap(({ tokenIds }) => tokenIds),
  };
}
