import { tokenizerJson } from "./bpe_trainer.ts";
import { TokenizerError } from "./errors.ts";
import type { TokenizerJson } from "./tokenizer_json.ts";

/** The token for every character that the vocabulary lacks. */
export const UNKNOWN = "<unk>";

/**
 * A `tokenizer.json` in which every character (Unicode code point) of an alphabet is a token: a BPE without merges. The
 * special tokens get the first ids, `<unk>` the next one, then the characters in the order of their code points. A character
 * outside the alphabet becomes `<unk>`, which decodes to nothing. `bos_token` is put before a text. Throws a TokenizerError
 * for an empty alphabet.
 */
export function charTokenizer(
  alphabet: Iterable<string>,
  options: { special_tokens: readonly string[]; bos_token: string | null },
): TokenizerJson {
  const characters = [...new Set(alphabet)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
  if (characters.length === 0) {
    throw new TokenizerError("there is no text to make a tokenizer of: name some");
  }
  const special = [...options.special_tokens, UNKNOWN];
  const json = tokenizerJson([...special, ...characters], special, [], options.bos_token);
  return {
    ...json,
    pre_tokenizer: null,
    decoder: { type: "Fuse" },
    model: { ...json.model, unk_token: UNKNOWN },
  };
}
