import { hasDevice } from "../core/device.ts";
import { checkOptions, describe, KilnError } from "../core/errors.ts";
import { openOnce } from "../kernels/index.ts";
import type { AnyModel } from "../models/architectures.ts";
import { resolveModel } from "../models/hub/resolve.ts";
import type { ComputeDtype } from "../nn/index.ts";
import { type ChatMessage, type ChatTool, checkConversation, type Tokenizer } from "../tokenizer/index.ts";
import { defaultCacheBytes } from "./engine/runner.ts";
import { addLoaded, loadInto } from "./loading.ts";
import { loadAdapterInto } from "./lora.ts";
import { ModelPool, type ServedModel, taskOf } from "./models.ts";
import { chatPrompt } from "./text/chat.ts";
import type { EncoderInput, EncoderTask } from "./text/encoder_frontend.ts";
import { checkParams } from "./text/params.ts";
import type { Prompt, SamplingParams, TextRequest } from "./text/request.ts";
import { inParallel, type RequestOutput, writtenTo } from "./text/request_output.ts";

export interface LLMOptions {
  /** f16: the model computes in it, and takes half the memory. Default f32. Only for a path. */
  dtype?: ComputeDtype;
  /** Tokens of the longest prompt plus answer; default: as many as the model has positions. */
  maxModelLen?: number;
  /** Answers written at once; default 64. */
  maxSequences?: number;
  /** Tokens computed in one step; default 512. */
  maxBatchedTokens?: number;
  /** Room for keys and values, in bytes; default 256 MiB. */
  cacheBytes?: number;
  /** Prompts without a seed of their own get this, plus 1 for each prompt before them; default 0. */
  seed?: number;
  /** Adapters that there may be at once, and the rank that one may have; default 16 and 64. */
  maxAdapters?: number;
  maxRank?: number;
}

const OPTIONS = [
  ...["dtype", "maxModelLen", "maxSequences", "maxBatchedTokens", "cacheBytes", "seed"],
  ...["maxAdapters", "maxRank"],
];

/** A LoRA adapter, as vLLM's `LoRARequest`: loaded when it is first asked for, and kept until `close`. */
export interface LoraRequest {
  name: string;
  /** A folder of PEFT or GGUF file, or the name of one that was pulled. */
  path: string;
}

export interface LLMGenerateOptions {
  /** The adapter with which all prompts of the call are answered; calls with others run beside it in one batch. */
  lora?: LoraRequest | null;
}

/** A text, its token ids as they are, or vLLM's objects of either. */
export type LLMPrompt =
  | string
  | readonly number[]
  | { prompt: string }
  | { prompt_token_ids: readonly number[] };

/** vLLM's; `max_tokens` is 16 by default, null for as many as the context holds, where every answer ends. */
export type LLMParams = Omit<SamplingParams, "best_of">;

export interface LLMChatOptions extends LLMGenerateOptions {
  /** What the chat template tells the model it could call; calls come as the text that the model writes. */
  tools?: ChatTool[];
  add_generation_prompt?: boolean;
  continue_final_message?: boolean;
  /** Further variables of the chat template. */
  chat_template_kwargs?: Record<string, unknown>;
}

/** What an encoder makes of a text, in vLLM's form. */
export interface PoolingOutput<T> {
  request_id: string;
  prompt_token_ids: number[];
  outputs: T;
  finished: boolean;
}

/** A model in this process, as vLLM's `LLM`: many prompts at once, batched as the server batches them.
 *
 *     const llm = new LLM("runs/demo/model");
 *     const outputs = await llm.generate(["Hello, my name is", "The future of AI is"], { temperature: 0.8, top_p: 0.95 });
 *     for (const { prompt, outputs: [{ text }] } of outputs) console.log(prompt, text);
 *
 * The same program gives the same texts: see `seed`. No answer depends on the others of its batch.
 */
export class LLM {
  readonly #source: string | { model: AnyModel; tokenizer: Tokenizer };
  readonly #options: LLMOptions;
  // There is no connection to time out, so a slow machine may take as long as it needs.
  readonly #pool = new ModelPool({
    limits: {
      stepMs: Infinity,
      queueWaitMs: Infinity,
      queuedRequests: Infinity,
      queuedTokens: Infinity,
      queuedTexts: Infinity,
    },
    // The caller gets the failure itself.
    onError: () => {},
  });
  #opened: Promise<ServedModel> | null = null;
  readonly #adapters = new Map<string, { path: string; model: Promise<ServedModel> }>();
  #requests = 0;

  /**
   * The model is loaded when it is first used.
   * @param model a folder in Hugging Face layout, a finished run, a GGUF file, a name (org/name) that was pulled, or a loaded model
   */
  constructor(model: string | { model: AnyModel; tokenizer: Tokenizer }, options: LLMOptions = {}) {
    this.#source = model;
    this.#options = checkOptions("LLM", options, OPTIONS);
  }

  /**
   * Continues one prompt or several; the outputs are in their order.
   * @param params for all of them, or a list with those of each
   * @throws KilnError for a model or adapter that cannot be loaded or writes no text, and a prompt or parameter that cannot be
   *     used; if the model fails, its own error
   */
  async generate(
    prompts: LLMPrompt | readonly LLMPrompt[],
    params: LLMParams | readonly LLMParams[] = {},
    options: LLMGenerateOptions = {},
  ) {
    const { lora } = checkOptions("generate", options, ["lora"]);
    return this.#write(isOnePrompt(prompts) ? [promptOf(prompts)] : prompts.map(promptOf), params, lora);
  }

  /**
   * Answers one conversation or several, which the model's chat template renders.
   * @throws KilnError as `generate`, and for a model without a chat template
   */
  async chat(
    messages: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
    params: LLMParams | readonly LLMParams[] = {},
    options: LLMChatOptions = {},
  ): Promise<RequestOutput[]> {
    const { tools, lora, ...others } = options;
    const { tokenizer } = await this.#frontend(lora);
    const many = Array.isArray(messages[0]);
    const conversations = (many ? messages : [messages]) as readonly (readonly ChatMessage[])[];
    const prompts = conversations.map((one) => {
      const conversation = checkConversation({ messages: one, ...(tools ? { tools } : {}) });
      const { pieces } = chatPrompt(tokenizer, { conversation, ...others });
      return { pieces };
    });
    return this.#write(prompts, params, lora);
  }

  /** A vector of each text, as /v1/embeddings gives it. @throws KilnError for a model that is no embedding model. */
  async embed(
    texts: EncoderInput | readonly EncoderInput[],
  ): Promise<PoolingOutput<{ embedding: number[] }>[]> {
    const { outputs } = await this.#read(texts, "embed");
    return outputs.map(({ vector, ...rest }) => ({ ...rest, outputs: { embedding: [...vector] } }));
  }

  /** How likely each label of each text is, and the likeliest. @throws KilnError for a model that is no classifier. */
  async classify(
    texts: EncoderInput | readonly EncoderInput[],
  ): Promise<PoolingOutput<{ probs: number[]; label: string }>[]> {
    const { task, outputs } = await this.#read(texts, "classify");
    return outputs.map(({ vector, ...rest }) => {
      const probs = [...task.scores(vector)];
      return { ...rest, outputs: { probs, label: task.labels[probs.indexOf(Math.max(...probs))] } };
    });
  }

  /** Lets what runs finish, and frees the memory; a model that was given loaded stays. */
  async close(): Promise<void> {
    const opened = await this.#opened;
    this.#opened = null;
    this.#adapters.clear();
    if (opened) await this.#pool.remove(opened.name);
  }

  async #write(
    prompts: readonly Prompt[],
    params: LLMParams | readonly LLMParams[],
    lora?: LoraRequest | null,
  ): Promise<RequestOutput[]> {
    const given = Array.isArray(params)
      ? (params as readonly LLMParams[])
      : prompts.map(() => params as LLMParams);
    if (given.length !== prompts.length) {
      throw new KilnError(
        `there are ${prompts.length} prompts and ${given.length} sets of parameters: give one for all, or one for each`,
      );
    }
    for (const one of given) checkParams(one);
    const frontend = await this.#frontend(lora);
    const first = this.#requests;
    this.#requests += prompts.length;
    // Twice as many as run at once, so that others wait when one ends.
    return inParallel(prompts.length, 2 * (this.#options.maxSequences ?? 64), (index) => {
      const seed = (this.#options.seed ?? 0) + first + index;
      const own = { max_tokens: 16, seed, ...given[index] };
      const request: TextRequest = { ...own, seed: own.seed ?? seed, ...fixed(prompts[index]) };
      return writtenTo(frontend, request, String(first + index));
    });
  }

  async #read<Name extends "embed" | "classify">(texts: EncoderInput | readonly EncoderInput[], name: Name) {
    const model = await this.#open();
    const task = model.kind === "encoder" ? model.frontend.task : null;
    if (model.kind !== "encoder" || task?.name !== name)
      throw new KilnError(`this model is for ${taskOf(model)}, so it cannot ${name}`);
    if (typeof texts !== "string" && !Array.isArray(texts))
      throw new KilnError(`give a text, token ids, or a list of either, not ${describe(texts)}`);
    const inputs = isOneText(texts) ? [texts] : texts;
    const first = this.#requests;
    this.#requests += inputs.length;
    const job = await model.frontend.start({ inputs, client: "llm" });
    const vectors = await job.done;
    const outputs = vectors.map((vector, i) => ({
      request_id: String(first + i),
      prompt_token_ids: Array.from(job.texts[i].ids),
      finished: true,
      vector,
    }));
    return { task: task as Extract<EncoderTask, { name: Name }>, outputs };
  }

  async #frontend(lora?: LoraRequest | null) {
    const model = lora ? await this.#adapted(lora) : await this.#open();
    if (model.kind === "text") return model.frontend;
    throw new KilnError(`this model is for ${taskOf(model)}, so it writes no text`);
  }

  async #adapted(lora: LoraRequest): Promise<ServedModel> {
    const { name, path } = checkOptions("a LoRA request", lora, ["name", "path"]);
    if (![name, path].every((text) => typeof text === "string" && text !== ""))
      throw new KilnError(`an adapter is { name, path }, two texts, not ${describe(lora)}`);
    await this.#open();
    const known = this.#adapters.get(name);
    if (known !== undefined && known.path !== path)
      throw new KilnError(
        `the adapter ${name} is ${known.path} already: give ${path} another name, or close the LLM first`,
      );
    const load = async () => loadAdapterInto(this.#pool, { name, path: await resolveModel(path) });
    const model = known?.model ?? load();
    this.#adapters.set(name, { path, model });
    // One that could not be loaded may be asked for again.
    model.catch(() => this.#adapters.delete(name));
    return model;
  }

  #open(): Promise<ServedModel> {
    this.#opened ??= this.#load();
    return this.#opened;
  }

  async #load(): Promise<ServedModel> {
    const { dtype = "f32", cacheBytes = defaultCacheBytes, seed: _, ...settings } = this.#options;
    const [source, names] = [this.#source, { name: "llm", aliases: [] }];
    if (typeof source !== "string")
      return addLoaded(this.#pool, names, source, { dtype, ...settings }, cacheBytes);
    if (!hasDevice()) await openOnce();
    return loadInto(
      this.#pool,
      { ...names, path: await resolveModel(source) },
      { dtype, ...settings },
      cacheBytes,
    );
  }
}

/** What no caller chooses. */
const fixed = (prompt: Prompt) => ({ prompts: [prompt], client: "llm", fit_context: true });

const isOnePrompt = (prompts: LLMPrompt | readonly LLMPrompt[]): prompts is LLMPrompt =>
  !Array.isArray(prompts) || typeof prompts[0] === "number";

const isOneText = (texts: EncoderInput | readonly EncoderInput[]): texts is EncoderInput =>
  typeof texts === "string" || typeof texts[0] === "number";

function promptOf(prompt: LLMPrompt): string | readonly number[] {
  const given: unknown = typeof prompt === "object" && prompt !== null ? { ...prompt } : {};
  const { prompt: text, prompt_token_ids: ids } = given as { prompt?: unknown; prompt_token_ids?: unknown };
  const said = Array.isArray(prompt) ? prompt : (text ?? ids ?? prompt);
  if (typeof said === "string") return said;
  if (Array.isArray(said) && said.every((id) => typeof id === "number")) return said;
  throw new KilnError(
    `a prompt must be a text, token ids, { prompt } or { prompt_token_ids }, not ${describe(prompt)}`,
  );
}
