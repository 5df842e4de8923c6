import type { FastifyReply } from "fastify";
import type { TextJob } from "../../../text/job.ts";
import { finished, type Start, streamed } from "../../answer.ts";
import type { Call } from "../../route.ts";
import { LINES } from "../../sse.ts";
import type { AnswerBody } from "./fields.ts";

/** What one route says of an answer, in Ollama's form. */
export interface AnswerWriter<Delta> {
  /** The members that a piece adds to a line; null for a piece without news. */
  piece(delta: Delta): object | null;
  /** The members of the last line of a stream. */
  last(): object;
  /** The members of the answer in one piece. */
  whole(deltas: readonly Delta[]): object;
}

/** Times are in nanoseconds, as Ollama's. */
class Timer {
  readonly #start = performance.now();
  #begun = this.#start;
  #first: number | null = null;

  /** The request has been accepted. */
  begin(): void {
    this.#begun = performance.now();
  }

  token(): void {
    this.#first ??= performance.now();
  }

  /** What the last line says of a finished job. */
  counts({ promptTokens, completionTokens }: TextJob) {
    const now = performance.now();
    const first = this.#first ?? now;
    const nanoseconds = (ms: number) => Math.round(ms * 1e6);
    return {
      total_duration: nanoseconds(now - this.#start),
      // The model is loaded already.
      load_duration: 0,
      prompt_eval_count: promptTokens,
      prompt_eval_duration: nanoseconds(first - this.#begun),
      eval_count: completionTokens,
      eval_duration: nanoseconds(now - first),
    };
  }
}

/** Answers as lines of JSON, or with `stream: false` in one object. */
export async function answered<Delta extends { readonly finishReason: string | null }>(
  { body, reply, service }: Call<AnswerBody>,
  start: Start<Delta>,
  writer: AnswerWriter<Delta>,
): Promise<object> {
  const timer = new Timer();
  const deltas: Delta[] = [];
  const header = () => ({ model: body.model, created_at: new Date().toISOString() });
  const end = (job: TextJob) => ({
    done: true,
    done_reason: deltas.at(-1)?.finishReason === "length" ? "length" : "stop",
    ...timer.counts(job),
  });
  const begin = async (hear: (delta: Delta) => void) => {
    const job = await start((_, delta) => {
      timer.token();
      hear(delta);
    });
    timer.begin();
    return job;
  };
  if (body.stream === false) {
    const job = await finished(
      begin((delta) => deltas.push(delta)),
      reply,
    );
    return { ...header(), ...writer.whole(deltas), ...end(job) };
  }
  const send = async (stream: { send(data: unknown): void; close(): void }) => {
    const starting = begin((delta) => {
      deltas[0] = delta;
      const piece = writer.piece(delta);
      if (piece !== null) stream.send({ ...header(), ...piece, done: false });
    });
    const job = await finished(starting, reply);
    stream.send({ ...header(), ...writer.last(), ...end(job) });
    stream.close();
  };
  return streamed(reply, service.limits, send, { framing: LINES });
}

/** The answer to a request without a prompt, by which clients have a model loaded, or with `keep_alive: 0` unloaded. */
export function loaded({ body, reply }: Call<AnswerBody>, members: object): object | FastifyReply {
  const line = {
    model: body.model,
    created_at: new Date().toISOString(),
    ...members,
    done: true,
    done_reason: "load",
  };
  if (body.stream === false) return line;
  reply.header("content-type", LINES.contentType);
  return `${JSON.stringify(line)}\n` as never;
}
