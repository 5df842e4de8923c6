import { createHash } from "node:crypto";
import type { FastifyReply } from "fastify";
import type { Limits } from "../limits.ts";
import { TextJob } from "../text/job.ts";
import { asHttpError, type HttpError } from "./errors.ts";
import { type Framing, SseStream } from "./sse.ts";

/** Tokens of a prompt's beginning that make its key: four blocks of the usual size. */
const KEY_TOKENS = 64;

/**
 * Names the beginning of a prompt, so that a proxy can send requests that begin alike to the server that has it in its cache.
 * A proxy knows no tokens, so clients send the key of an answer with their next request; that one is the conversation's from
 * then on.
 */
function tellPrefixKey({ prompts: [prompt] }: TextJob, reply: FastifyReply): void {
  const given = reply.request.headers["x-kiln-prefix-key"];
  const known = typeof given === "string" && /^[\w-]{1,64}$/.test(given) ? given : null;
  const beginning = Int32Array.from(prompt.tokens.slice(0, KEY_TOKENS));
  reply.header(
    "x-kiln-prefix-key",
    known ?? createHash("sha256").update(beginning).digest("hex").slice(0, 16),
  );
}

interface Job {
  readonly done: Promise<unknown>;
  cancel(): void;
}

/** Waits for a job to finish; cancels it, so that this rejects, when the client leaves. */
export async function finished<J extends Job>(starting: Promise<J>, reply: FastifyReply): Promise<J> {
  let job: J | null = null;
  let gone = false;
  // Only the response tells that a client left: the request's "close" comes as soon as its body is read.
  reply.raw.once("close", () => {
    gone = true;
    if (!reply.raw.writableFinished) job?.cancel();
  });
  job = await starting;
  if (gone) job.cancel();
  if (job instanceof TextJob) tellPrefixKey(job, reply);
  await job.done;
  return job;
}

/**
 * Answers by events. `send` has to end the stream; if it fails before the first event, the answer is an ordinary error,
 * later what `fail` sends, by default an error event.
 */
export async function streamed(
  reply: FastifyReply,
  limits: Limits,
  send: (stream: SseStream) => Promise<void>,
  options: { fail?: (stream: SseStream, error: HttpError) => void; framing?: Framing } = {},
): Promise<FastifyReply> {
  const { fail = (failed, error) => failed.fail(error) } = options;
  const stream = new SseStream(reply, limits, options.framing);
  try {
    await send(stream);
  } catch (error) {
    stream.dispose();
    if (!stream.opened) throw error;
    fail(stream, asHttpError(error));
  }
  return reply;
}

/** Starts a job whose pieces the listener hears. */
export type Start<Delta> = (onDelta: (index: number, delta: Delta) => void) => Promise<TextJob>;

/** Waits for a job, as `finished`, and gathers the pieces of each choice. */
export async function gathered<Delta>(
  start: Start<Delta>,
  reply: FastifyReply,
): Promise<{ job: TextJob; deltas: Delta[][] }> {
  const deltas: Delta[][] = [];
  const job = await finished(
    start((index, delta) => {
      deltas[index] ??= [];
      deltas[index].push(delta);
    }),
    reply,
  );
  return { job, deltas };
}

/** How one protocol words an answer. */
export interface ChunkWriter<Delta> {
  /** What all chunks have. */
  header(job: TextJob): object;
  /** The chunks' choices that a piece makes. */
  choices(job: TextJob, index: number, delta: Delta, isFirst: boolean): Iterable<object>;
}

interface StreamOptions {
  readonly include_usage?: boolean | null | undefined;
  readonly continuous_usage_stats?: boolean | null | undefined;
}

/** Streams a job as OpenAI's chunks of one choice each, with one more for the usage where that is asked for. */
export function streamedChunks<Delta>(
  start: Start<Delta>,
  writer: ChunkWriter<Delta>,
  { include_usage, continuous_usage_stats }: StreamOptions,
  { reply, limits }: { reply: FastifyReply; limits: Limits },
): Promise<FastifyReply> {
  return streamed(reply, limits, async (stream) => {
    const seen = new Set<number>();
    let job: TextJob | null = null;
    const send = (index: number, delta: Delta) => {
      if (job === null) return;
      const usage = include_usage ? { usage: continuous_usage_stats ? usageOf(job) : null } : {};
      for (const choice of writer.choices(job, index, delta, !seen.has(index))) {
        stream.send({ ...writer.header(job), choices: [choice], ...usage });
      }
      seen.add(index);
    };
    const starting = start(send).then((started) => {
      job = started;
      return started;
    });
    const done = await finished(starting, reply);
    if (include_usage) stream.send({ ...writer.header(done), choices: [], usage: usageOf(done) });
    stream.end();
  });
}

/** OpenAI's `usage`. */
export function usageOf({ promptTokens, completionTokens, cachedTokens }: TextJob) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
