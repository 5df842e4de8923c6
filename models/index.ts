/** `kiln/models`: architectures, their configs, and the directories and files that hold them. */
export { type DrawSettings, settingsRow } from "../kernels/sampling/draw.ts";
export { type AdapterConfig, parseAdapterConfig } from "./adapter_config.ts";
export {
  type Adapter,
  type AddAdapterOptions,
  addAdapter,
  mergeAdapter,
  removeAdapter,
  unmergeAdapter,
  useAdapter,
} from "./adapters.ts";
export * from "./architectures.ts";
export type { GenerateOptions } from "./beam_search.ts";
export { BertEncoder } from "./bert.ts";
export { Blenderbot } from "./blenderbot.ts";
export type { BlenderbotConfig } from "./blenderbot_config.ts";
export { CausalLM, type DecoderShape } from "./decoder.ts";
export { Encoder, type EncoderBatch, type EncoderInput } from "./encoder.ts";
export type { BertConfig, DistilBertConfig, EncoderConfig } from "./encoder_config.ts";
export { EncoderDecoder, type Seq2SeqBatch, type SourceTexts } from "./encoder_decoder.ts";
export * from "./features/images.ts";
export * from "./features/sound.ts";
export { type TableCells, TableFeatures, type TableSettings } from "./features/tables.ts";
export {
  fromPretrained,
  type LoadedModel,
  type LoadOptions,
  loadModel,
  loadWeights,
  type NewHead,
  readTensors,
  saveModel,
} from "./formats/hf_directory.ts";
export { loadAdapter, saveAdapter } from "./formats/peft_directory.ts";
export {
  type HostDtype,
  type HostTensor,
  hostTensor,
  parseSafetensors,
  readModelWeights,
  readSafetensors,
  serializeSafetensors,
  toFloat32,
  toInt32,
  writeSafetensors,
} from "./formats/safetensors.ts";
export type { Generated, GenerationOptions, TextGeneration } from "./generation.ts";
export { GPT2ForSequenceClassification, GPT2LMHeadModel } from "./gpt2.ts";
export { type GPT2Config, gpt2PresetConfig, parseGpt2Config } from "./gpt2_config.ts";
export { type PullOptions, type PullResult, pullModel } from "./hub/pull.ts";
export { resolveModel } from "./hub/resolve.ts";
export type { Task } from "./labels.ts";
export { LlamaForCausalLM } from "./llama.ts";
export { type LlamaConfig, parseLlamaConfig, tinyllmConfig } from "./llama_config.ts";
export { type MaskedGenerationOptions, MaskedGenerator } from "./masked_generation.ts";
export { Model, type ModelShape, type TokenBatch } from "./model.ts";
export { PagedDecoder, type PagedItem, type PagedSizes } from "./paged_decoder.ts";
export {
  type Features,
  type PipelineOptions,
  type PipelineSource,
  type Pipelines,
  type PipelineTask,
  pipeline,
} from "./pipeline.ts";
export { dequantizeModel, quantizeModel } from "./quantize.ts";
export { type AddOptions, addModel } from "./registry/describe.ts";
export type { Facts, Manifest } from "./registry/manifest.ts";
export { type RegisteredModel, type RegisteredVersion, Registry } from "./registry/registry.ts";
export type { GeneratedText, TextGenerationOptions } from "./text_generation.ts";
export { type EncodedText, packTexts, type TextRows, uploadRows } from "./text_rows.ts";
