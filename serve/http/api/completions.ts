import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply } from "fastify";
import type { Limits } from "../../limits.ts";
import type { ChoiceDelta, CompletionLogprobs } from "../../text/choice.ts";
import type { Caller, CompletionJob, DeltaListener, Frontend } from "../../text/frontend.ts";
import { asServeError } from "../errors.ts";
import type { CompletionBody } from "../schema.ts";
import { SseStream } from "../sse.ts";

/** Answers POST /v1/completions in one piece or as a stream. A client that leaves ends its request in the engine. */
export async function complete(
  frontend: Frontend,
  limits: Limits,
  body: CompletionBody,
  caller: Caller,
  reply: FastifyReply,
): Promise<unknown> {
  const start = (onDelta: DeltaListener) => frontend.start(body, caller, onDelta);
  return body.stream ? streamed(start, limits, body, reply) : whole(start, body, reply);
}

type Start = (onDelta: DeltaListener) => Promise<CompletionJob>;

/** Runs a job until it is done or the client has left (when the job's own error says so). */
async function run(starting: Promise<CompletionJob>, reply: FastifyReply): Promise<CompletionJob> {
  let job: CompletionJob | null = null;
  let gone = false;
  // Only the response tells that a client left: a request's "close" comes as soon as its body is read.
  reply.raw.once("close", () => {
    gone = true;
    if (!reply.raw.writableFinished) job?.cancel();
  });
  job = await starting;
  if (gone) job.cancel();
  await job.done;
  return job;
}

async function whole(start: Start, body: CompletionBody, reply: FastifyReply): Promise<unknown> {
  const answers: ChoiceDelta[][] = [];
  const collect = (index: number, delta: ChoiceDelta) => {
    answers[index] ??= [];
    answers[index].push(delta);
  };
  const job = await run(start(collect), reply);
  const perPrompt = job.choices.length / job.prompts.length;
  const n = body.n ?? 1;
  const choices: string[] = [];
  for (const promptIndex of job.prompts.keys()) {
    const indices = Array.from({ length: perPrompt }, (_, j) => promptIndex * perPrompt + j);
    if (perPrompt > n) indices.sort((a, b) => job.choices[b].meanLogprob - job.choices[a].meanLogprob);
    for (const index of indices.slice(0, n)) {
      // Log probabilities of many long prompts are megabytes: others have their turn between two choices.
      if (choices.length > 0) await nextTurn();
      const answer = join(answers[index]);
      choices.push(JSON.stringify(choiceBody(body, job, choices.length, promptIndex, answer, true)));
    }
  }
  reply.header("content-type", "application/json; charset=utf-8");
  const opening = JSON.stringify(header(job, body)).slice(0, -1);
  return `${opening},"choices":[${choices.join(",")}],"usage":${JSON.stringify(job.usage())}}`;
}

async function streamed(
  start: Start,
  limits: Limits,
  body: CompletionBody,
  reply: FastifyReply,
): Promise<unknown> {
  const stream = new SseStream(reply, limits);
  const withUsage = body.stream_options?.include_usage === true;
  const running = body.stream_options?.continuous_usage_stats === true;
  const seen = new Set<number>();
  let job: CompletionJob | null = null;
  const send = (index: number, delta: ChoiceDelta) => {
    if (job === null) return;
    const promptIndex = Math.floor((index * job.prompts.length) / job.choices.length);
    const choices = [choiceBody(body, job, index, promptIndex, delta, !seen.has(index))];
    seen.add(index);
    const usage = withUsage ? { usage: running ? job.usage() : null } : {};
    stream.send({ ...header(job, body), choices, ...usage });
  };
  try {
    const starting = start(send).then((started) => {
      job = started;
      return started;
    });
    const finished = await run(starting, reply);
    if (withUsage) stream.send({ ...header(finished, body), choices: [], usage: finished.usage() });
    stream.end();
  } catch (error) {
    stream.dispose();
    if (!stream.opened) throw error;
    stream.fail(asServeError(error));
  }
  return reply;
}

function header(job: CompletionJob, body: CompletionBody) {
  return { id: job.id, object: "text_completion", created: job.created, model: body.model };
}

function choiceBody(
  body: CompletionBody,
  job: CompletionJob,
  index: number,
  promptIndex: number,
  delta: ChoiceDelta,
  first: boolean,
) {
  const { text, logprobs, finishReason, stopReason, tokenIds } = delta;
  const ids = body.return_token_ids
    ? { token_ids: tokenIds, prompt_token_ids: first ? job.prompts[promptIndex].tokens : null }
    : {};
  return { index, text, logprobs, finish_reason: finishReason, stop_reason: stopReason, ...ids };
}

/** All pieces of one choice as one. */
function join(deltas: readonly ChoiceDelta[]): ChoiceDelta {
  const { finishReason, stopReason } = deltas.at(-1)!;
  const parts = deltas.flatMap(({ logprobs }) => logprobs ?? []);
  const logprobs: CompletionLogprobs | null =
    deltas[0].logprobs === null
      ? null
      : {
          tokens: parts.flatMap(({ tokens }) => tokens),
          token_logprobs: parts.flatMap(({ token_logprobs }) => token_logprobs),
          top_logprobs: parts.flatMap(({ top_logprobs }) => top_logprobs),
          text_offset: parts.flatMap(({ text_offset }) => text_offset),
        };
  return {
    text: deltas.map(({ text }) => text).join(""),
    logprobs,
    tokenIds: deltas.flatMap(({ tokenIds }) => tokenIds),
    finishReason,
    stopReason,
  };
}
