export { type BpeTrainerOptions, GPT2_PATTERN, trainBpe } from "./bpe_trainer.ts";
export { charTokenizer, UNKNOWN } from "./char_tokenizer.ts";
export { TokenizerError } from "./errors.ts";
export { tokenizerFromGguf } from "./from_gguf.ts";
export { StreamDecoder } from "./stream_decoder.ts";
export { tokenizerToGguf } from "./to_gguf.ts";
export { type EncodeOptions, Tokenizer, type TokenizerConfigs } from "./tokenizer.ts";
export type { TokenizerJson } from "./tokenizer_json.ts";
