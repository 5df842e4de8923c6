import type { Tokenizer } from "../../tokenizer/index.ts";
import type { TokenLogprob } from "../engine/types.ts";
import { type ShownToken, tokenText } from "../text/choice.ts";

/** Log probabilities as chat and responses have them, with the `top` likeliest alternatives of each token. */
export function tokenLogprobs(tokenizer: Tokenizer, tokens: readonly ShownToken[], top: number) {
  return tokens.map((token) => ({
    token: token.text,
    logprob: token.logprob ?? 0,
    bytes: token.hidden ? null : bytesOf(tokenizer, token.id, token.text),
    top_logprobs: token.top.slice(0, top).map(([id, logprob]) => {
      const text = tokenText(tokenizer, id);
      return { token: text, logprob, bytes: bytesOf(tokenizer, id, text) };
    }),
  }));
}

/** The scores of a prompt as vLLM writes them, by token id; the first token has none. */
export function promptLogprobs(tokenizer: Tokenizer, scores: readonly TokenLogprob[]) {
  const entry = (id: number, logprob: number, rank: number) =>
    [id, { logprob, rank, decoded_token: tokenText(tokenizer, id) }] as const;
  const entries = scores.map(({ id, logprob, rank, top }) =>
    Object.fromEntries([
      ...top.map(([other, value], i) => entry(other, value, i + 1)),
      entry(id, logprob, rank),
    ]),
  );
  return [null, ...entries];
}

/** The bytes of a token, or of the part of it that is shown. */
function bytesOf(tokenizer: Tokenizer, id: number, text: string): number[] {
  const isWhole = text === tokenText(tokenizer, id);
  return [...(isWhole ? tokenizer.idToBytes(id) : new TextEncoder().encode(text))];
}
