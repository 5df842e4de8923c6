import { type AddedTokenJson, componentList, type TokenizerJson } from "./tokenizer_json.ts";

/** A post-processor that adds its tokens, which it knows by their ids, and leaves the places of others as they are. */
function untrimmed({ post_processor: processor }: TokenizerJson): TokenizerJson["post_processor"] {
  const processors = componentList(processor).map((each) =>
    /^(ByteLevel|RobertaProcessing)$/.test(each.type) ? { ...each, trim_offsets: false } : each,
  );
  return processors.length === 0 ? null : { type: "Sequence", processors };
}

/**
 * The same tokenizer with its special tokens renamed: only the new names are recognised in a text, and the old ones are
 * plain text. Vocabulary entries are renamed too, because some models look up whole words or pieces. Ids do not change, and
 * added tokens that are not special are kept.
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
    // A normalizer might drop the unusual characters of the new names.
    added_tokens: json.added_tokens?.map((token) =>
      token.special ? { ...token, content: renamed(token.content), normalized: false } : token,
    ),
    post_processor: untrimmed(json),
    model: {
      ...model,
      vocab,
      ...(typeof model.unk_token === "string" && { unk_token: renamed(model.unk_token) }),
      ...(Array.isArray(model.merges) && { merges: model.merges.filter(isPossible) }),
    },
  };
}
