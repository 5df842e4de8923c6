import { Tokenizer } from "../tokenizer.ts";
import { addedToken } from "../tokenizer_json.ts";
import { CHATML } from "./templates.ts";

/** ChatML's tokens: the last one ends a turn. */
const tokens = ["<|im_start|>", "<|im_end|>"];

/**
 * A tokenizer with a chat template: itself if it has one, otherwise a copy with `CHATML`, in which `<|im_end|>` is the token
 * that ends generation. ChatML's special tokens are added at the end of the vocabulary if they are missing, so a model may
 * need more rows (`withTokenizer`).
 */
export function withChatTemplate(tokenizer: Tokenizer): Tokenizer {
  if (tokenizer.chatTemplate !== null) return tokenizer;
  const { json, config, vocabSize, bosId, padId, eosIds } = tokenizer;
  let next = vocabSize;
  const added = tokens.map((name) => addedToken(tokenizer.tokenToId(name) ?? next++, name));
  const others = (json.added_tokens ?? []).filter(({ content }) => !tokens.includes(content));
  const eos_token_id = [added[1].id, ...eosIds.filter((id) => id !== added[1].id)];
  return new Tokenizer(
    { ...json, added_tokens: [...others, ...added].sort((a, b) => a.id - b.id) },
    {
      tokenizer_config: { ...config, eos_token: tokens[1] },
      generation_config: { bos_token_id: bosId, pad_token_id: padId, eos_token_id },
      chat_template: CHATML,
    },
  );
}
