// The former names, until every importer has followed.
export {
  assertComputeDtype,
  createModel as createDecoder,
  type ModelConfig as DecoderConfig,
  parseModelConfig as parseDecoderConfig,
  readModelConfig as readDecoderConfig,
} from "./architectures.ts";
