import { Tokenizer, trainBpe } from "../../tokenizer/index.ts";

/** A real byte-level tokenizer with a few merges; id 0 is the end of text, id 1 its beginning. */
export function fakeTokenizer(): Tokenizer {
  const corpus = "once upon a time there was one little dog. the dog was happy and the sun was warm. ".repeat(
    4,
  );
  return new Tokenizer(
    trainBpe([corpus], { vocab_size: 300, special_tokens: ["<|endoftext|>", "<s>"], bos_token: "<s>" }),
  );
}
