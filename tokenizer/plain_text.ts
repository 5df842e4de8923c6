import type { AddedTokenJson, TokenizerJson } from "./tokenizer_json.ts";

/**
 * The same tokenizer with other names of its special tokens: a text has a special token where it has the new name, and
 * nothing but text where it spells the old one. Entries in the vocabulary are renamed as well, since some models look whole
 * words or pieces up; ids stay. Added tokens that are not special are text and remain.
 */
export function renameSpecialTokens(
  json: TokenizerJson,
  nameOf: (token: AddedTokenJson) => string,
): TokenizerJson {
  const special = new Map(
    json.added_tokens?.filter((token) => token.special).map((token) => [token.content, nameOf(token)]),
  );
  const renamed = (token: string) => special.get(token) ?? token;
  const { model } = json;
  const vocab = Array.isArray(model.vocab)
    ? model.vocab.map(([token, score]): [string, number] => [renamed(token), score])
    : Object.fromEntries(Object.entries(model.vocab).map(([token, id]) => [renamed(token), id]));
  const isPossible = (merge: string | [string, string]) =>
    !special.has(typeof merge === "string" ? merge.replace(" ", "") : merge.join(""));
  return {
    ...json,
    // A normalizer might drop what no text has.
    added_tokens: json.added_tokens?.map((token) =>
      token.special ? { ...token, content: renamed(token.content), normalized: false } : token,
    ),
    post_processor: null,
    model: {
      ...model,
      vocab,
      ...(typeof model.unk_token === "string" && { unk_token: renamed(model.unk_token) }),
      ...(Array.isArray(model.merges) && { merges: model.merges.filter(isPossible) }),
    },
  };
}
