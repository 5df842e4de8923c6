export { type BpeTrainerOptions, GPT2_PATTERN, trainBpe } from "./bpe_trainer.ts";
export { charTokenizer, UNKNOWN } from "./char_tokenizer.ts";
export { TokenizerError } from "./errors.ts";
export { StreamDecoder } from "./stream_decoder.ts";
export { type EncodeOptions, Tokenizer, type TokenizerConfigs } from "./tokenizer.ts";
export type { TokenizerJson } from "./tokenizer_json.ts";
