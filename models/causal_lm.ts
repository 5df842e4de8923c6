// The former name, until every importer has followed.
export type { CausalLM, DecoderBlock, DecoderShape } from "./decoder.ts";
export type { TokenBatch } from "./model.ts";
