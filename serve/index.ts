/**
 * Text from a model: in this process by `LLM` or, as it comes, by `TextGenerator`, or over HTTP by `createServer`.
 *
 *     const { model, tokenizer } = await loadModel("runs/demo/model");
 *     const text = await new TextGenerator(model, tokenizer).complete("Once upon a time", { max_tokens: 50 });
 *
 *     const server = createServer({ runner: new ModelRunner(model), tokenizer, modelName: "demo" });
 *     const url = await server.listen({ port: 8000 });
 */
export { RequestError, type RequestErrorCode } from "./engine/errors.ts";
export { ModelRunner, type RunnerOptions } from "./engine/runner.ts";
export { LIMITS, type Limits } from "./limits.ts";
export {
  LLM,
  type LLMChatOptions,
  type LLMGenerateOptions,
  type LLMOptions,
  type LLMParams,
  type LLMPrompt,
  type LoraRequest,
  type PoolingOutput,
} from "./llm.ts";
export {
  type EncoderModel,
  type EncoderModelOptions,
  ModelPool,
  type PoolOptions,
  type TextModel,
  type TextModelOptions,
} from "./models.ts";
export { NoticeClient, type NoticeClientOptions, NoticeError } from "./page/notices/client.ts";
export { pipeline } from "./pipeline.ts";
export { createServer, type Server, type ServerOptions } from "./server.ts";
export type { SamplingParams } from "./text/request.ts";
export type { CompletionOutput, Logprob, RequestOutput } from "./text/request_output.ts";
export { type GenerateOptions, samplerOf, TextGenerator } from "./text/text_generator.ts";
