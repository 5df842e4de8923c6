import type { Tokenizer } from "../../tokenizer/index.ts";
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

/** The bytes of a token, or of the part of it that is shown. */
function bytesOf(tokenizer: Tokenizer, id: number, text: string): number[] {
  const isWhole = text === tokenText(tokenizer, id);
  return [...(isWhole ? tokenizer.idToBytes(id) : new TextEncoder().encode(text))];
}
