import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { Limits } from "../../limits.ts";
import { type ChoiceDelta, type ShownToken, tokenText } from "../../text/choice.ts";
import type { ServeTokenizer } from "../../text/frontend.ts";
import type { DeltaListener, TextJob } from "../../text/job.ts";
import type { TextRequest } from "../../text/request.ts";
import { finished, usageOf } from "../answer.ts";
import { asHttpError, badRequest } from "../errors.ts";
import { type Call, modelNamed, route } from "../route.ts";
import { SseStream } from "../sse.ts";
import { flag, textFields, textOptions } from "./text_fields.ts";

/** OpenAI's default for completions. */
const MAX_TOKENS_DEFAULT = 16;

/** The body's fields; the front end checks ranges. */
function completionSchema(limits: Limits) {
  return z.object({
    ...textFields(limits),
    prompt: z.unknown(),
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
  schema: completionSchema,
  handle: (call: Call<CompletionBody>) => {
    const { body, service, reply } = call;
    const frontend = modelNamed(service, body.model);
    const answer = new Answer(body, frontend.tokenizer);
    const start = (onDelta: DeltaListener) => frontend.start(textRequest(call), onDelta);
    return body.stream ? streamed(start, answer, service.limits, reply) : whole(start, answer, reply);
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
    prompts: promptList(body.prompt, service.limits),
    max_tokens: max_tokens ?? MAX_TOKENS_DEFAULT,
  };
}

function promptList(prompt: unknown, { prompts }: Limits): (string | number[])[] {
  const bad = (message: string) => badRequest("prompt", message);
  if (prompt == null)
    throw bad("prompt is missing: give a string, a list of strings, token ids, or lists of token ids");
  const list = typeof prompt === "string" ? [prompt] : prompt;
  if (!Array.isArray(list))
    throw bad("prompt must be a string, a list of strings, token ids, or lists of token ids");
  if (list.length > prompts && typeof list[0] !== "number")
    throw bad(`at most ${prompts} prompts are allowed in one request, got ${list.length}`);
  if (list.length === 0 || list.some((item) => item === "" || (Array.isArray(item) && item.length === 0))) {
    throw bad("prompt must not be empty");
  }
  if (list.every((item) => typeof item === "number")) return [list];
  if (list.every((item) => typeof item === "string" || Array.isArray(item))) {
    if (list.every((item) => typeof item === typeof list[0])) return list;
  }
  throw bad("prompt must not mix strings and token ids");
}

type Start = (onDelta: DeltaListener) => Promise<TextJob>;

async function whole(start: Start, answer: Answer, reply: FastifyReply): Promise<string> {
  const deltas: ChoiceDelta[][] = [];
  const job = await finished(
    start((index, delta) => {
      deltas[index] ??= [];
      deltas[index].push(delta);
    }),
    reply,
  );
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
      choices.push(JSON.stringify(choice));
    }
  }
  reply.header("content-type", "application/json; charset=utf-8");
  const opening = JSON.stringify(answer.header(job)).slice(0, -1);
  return `${opening},"choices":[${choices.join(",")}],"usage":${JSON.stringify(usageOf(job))}}`;
}

async function streamed(start: Start, answer: Answer, limits: Limits, reply: FastifyReply): Promise<unknown> {
  const stream = new SseStream(reply, limits);
  const { include_usage, continuous_usage_stats } = answer.body.stream_options ?? {};
  const seen = new Set<number>();
  let job: TextJob | null = null;
  const send = (index: number, delta: ChoiceDelta) => {
    if (job === null) return;
    const promptIndex = Math.floor((index * job.prompts.length) / job.choices.length);
    const prompt = seen.has(index) ? null : job.prompts[promptIndex].tokens;
    seen.add(index);
    const usage = include_usage ? { usage: continuous_usage_stats ? usageOf(job) : null } : {};
    stream.send({ ...answer.header(job), choices: [answer.choice(index, delta, prompt)], ...usage });
  };
  try {
    const starting = start(send).then((started) => {
      job = started;
      return started;
    });
    const done = await finished(starting, reply);
    if (include_usage) stream.send({ ...answer.header(done), choices: [], usage: usageOf(done) });
    stream.end();
  } catch (error) {
    stream.dispose();
    if (!stream.opened) throw error;
    stream.fail(asHttpError(error));
  }
  return reply;
}

/** Puts the pieces of an answer into OpenAI's form. */
class Answer {
  readonly body: CompletionBody;
  readonly #tokenizer: ServeTokenizer;

  constructor(body: CompletionBody, tokenizer: ServeTokenizer) {
    this.body = body;
    this.#tokenizer = tokenizer;
  }

  header(job: TextJob) {
    return { id: `cmpl-${job.id}`, object: "text_completion", created: job.created, model: this.body.model };
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
