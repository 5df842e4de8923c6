import type { FastifyReply } from "fastify";
import type { TextJob } from "../text/job.ts";

/** Waits for a job to finish; cancels it, so that this rejects, when the client leaves. */
export async function finished(starting: Promise<TextJob>, reply: FastifyReply): Promise<TextJob> {
  let job: TextJob | null = null;
  let gone = false;
  // Only the response tells that a client left: the request's "close" comes as soon as its body is read.
  reply.raw.once("close", () => {
    gone = true;
    if (!reply.raw.writableFinished) job?.cancel();
  });
  job = await starting;
  if (gone) job.cancel();
  await job.done;
  return job;
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
