import type { TokenizerJson } from "./tokenizer_json.ts";

/**
 * The same tokenizer for text without special tokens, in which `</s>` is just four characters. Special tokens are removed
 * from the list of added tokens, and their vocabulary entries get names that no text can contain, because some models look
 * up whole words or pieces. Ids do not change. Added tokens that are not special are kept.
 */
export function withoutSpecialTokens(json: TokenizerJson): TokenizerJson {
  const special = new Set(json.added_tokens?.filter((token) => token.special).map(({ content }) => content));
  const hidden = (token: string) => (special.has(token) ? ` \u{10ffff}special ${token}` : token);
  const { model } = json;
  const vocab = Array.isArray(model.vocab)
    ? model.vocab.map(([token, score]): [string, number] => [hidden(token), score])
    : Object.fromEntries(Object.entries(model.vocab).map(([token, id]) => [hidden(token), id]));
  const isPossible = (merge: string | [string, string]) =>
    !special.has(typeof merge === "string" ? merge.replace(" ", "") : merge.join(""));
  return {
    ...json,
    added_tokens: json.added_tokens?.filter((token) => !token.special),
    post_processor: null,
    model: {
      ...model,
      vocab,
      ...(typeof model.unk_token === "string" && { unk_token: hidden(model.unk_token) }),
      ...(Array.isArray(model.merges) && { merges: model.merges.filter(isPossible) }),
    },
  };
}
