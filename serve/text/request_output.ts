import { type ChoiceDelta, type ShownToken, tokenText } from "./choice.ts";
import type { Frontend } from "./frontend.ts";
import type { TextRequest } from "./request.ts";

/** How likely the model found a token. */
export interface Logprob {
  logprob: number;
  /** 1 for the likeliest; null for a chosen token that is not among those reported. */
  rank: number | null;
  decoded_token: string;
}

/** One answer to a prompt, in vLLM's form. */
export interface CompletionOutput {
  index: number;
  text: string;
  /** The tokens written, the one that ended the answer included. */
  token_ids: number[];
  /** Sum of the log probabilities of all these tokens; null without `logprobs`. */
  cumulative_logprob: number | null;
  /** For each token whose text is shown, the likeliest ones and itself, by token id; null without `logprobs`. */
  logprobs: Record<number, Logprob>[] | null;
  /** `stop`: the model or a stop text ended it; `length`: `max_tokens` or the end of the context. */
  finish_reason: "stop" | "length";
  /** The stop text or stop token id that ended it; null for the end-of-text token. */
  stop_reason: string | number | null;
}

/** A prompt with its answers, in vLLM's form. */
export interface RequestOutput {
  request_id: string;
  /** Null where only the token ids were given. */
  prompt: string | null;
  prompt_token_ids: number[];
  /** As `logprobs` of an answer; null for the first token, and as a whole without `prompt_logprobs`. */
  prompt_logprobs: (Record<number, Logprob> | null)[] | null;
  outputs: CompletionOutput[];
  finished: boolean;
  /** Tokens of the prompt that were not computed because they were known from another. */
  num_cached_tokens: number;
}

/**
 * Continues the one prompt of a request.
 * @throws KilnError for a prompt or option that cannot be used; if the model fails, its own error.
 */
export async function writtenTo(
  frontend: Frontend,
  request: TextRequest,
  request_id: string,
): Promise<RequestOutput> {
  const deltas: ChoiceDelta[][] = [];
  const job = await frontend.start(request, (index, delta) => {
    deltas[index] ??= [];
    deltas[index].push(delta);
  });
  try {
    await job.done;
  } catch (error) {
    throw (error as Error).cause ?? error;
  }
  const [prompt] = request.prompts;
  const entry = (id: number, logprob: number, rank: number | null) =>
    [id, { logprob, rank, decoded_token: tokenText(frontend.tokenizer, id) }] as const;
  const byId = ({ id, logprob, top, rank }: Pick<ShownToken, "id" | "logprob" | "top"> & { rank?: number }) =>
    Object.fromEntries([
      entry(id, logprob!, rank ?? null),
      ...top.map(([other, value], i) => entry(other, value, i + 1)),
    ]);
  const outputs = deltas.map((pieces, index): CompletionOutput => {
    const { finishReason, stopReason } = pieces.at(-1)!;
    const wantsLogprobs = request.logprobs != null;
    return {
      index,
      text: pieces.map(({ text }) => text).join(""),
      token_ids: pieces.flatMap(({ tokenIds }) => tokenIds),
      cumulative_logprob: wantsLogprobs ? job.choices[index].logprobSum : null,
      logprobs: wantsLogprobs ? pieces.flatMap(({ logprobs }) => logprobs ?? []).map(byId) : null,
      finish_reason: finishReason!,
      stop_reason: stopReason,
    };
  });
  const asText = (piece: string | number) =>
    typeof piece === "string" ? piece : tokenText(frontend.tokenizer, piece);
  return {
    request_id,
    prompt:
      typeof prompt === "string" ? prompt : "pieces" in prompt ? prompt.pieces.map(asText).join("") : null,
    prompt_token_ids: [...job.prompts[0].tokens],
    prompt_logprobs:
      request.prompt_logprobs == null ? null : [null, ...job.choices[0].promptScores.map(byId)],
    outputs,
    finished: true,
    num_cached_tokens: job.cachedTokens,
  };
}

/**
 * The results of `work` on 0 to `count` - 1, of which `width` run at once. After a failure no more begin; it is thrown when
 * those that run have ended.
 */
export async function inParallel<T>(
  count: number,
  width: number,
  work: (index: number) => Promise<T>,
): Promise<T[]> {
  const all: T[] = [];
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const index = next++;
      all[index] = await work(index).catch((error) => {
        next = count;
        throw error;
      });
    }
  };
  const workers = Array.from({ length: width }, worker);
  await Promise.allSettled(workers);
  await Promise.all(workers);
  return all;
}
