import { freshSeed } from "../../core/random.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { invalid, RequestError } from "../engine/errors.ts";
import { Grammars } from "../engine/grammar/index.ts";
import type { EnginePort } from "../engine/port.ts";
import type { Request } from "../engine/types.ts";
import type { Limits } from "../limits.ts";
import { Choice } from "./choice.ts";
import { constraintOf } from "./constraint.ts";
import { type DeltaListener, TextJob } from "./job.ts";
import { PromptText } from "./prompt_text.ts";
import type { Prompt, TextRequest } from "./request.ts";
import { resolveSampling } from "./sampling.ts";

type TextLimits = Pick<Limits, "sequences" | "charsPerToken">;

/** Turns text requests into engine requests, and the engine's tokens back into text. One for each model and adapter. */
export class Frontend {
  readonly engine: EnginePort;
  readonly tokenizer: Tokenizer;
  readonly #limits: TextLimits;
  readonly #adapter: string | null;
  readonly #grammars: Grammars;

  /** @param adapter of the engine's runner, with which it answers. */
  constructor(engine: EnginePort, tokenizer: Tokenizer, limits: TextLimits, adapter: string | null = null) {
    this.engine = engine;
    this.tokenizer = tokenizer;
    this.#limits = limits;
    this.#adapter = adapter;
    this.#grammars = new Grammars(tokenizer, engine.runner.vocabSize);
  }

  /**
   * Checks a request against model and limits, tokenises it and starts it. `onDelta` is not called before this resolves.
   * Each prompt is decoded once, for all its choices.
   * @throws RequestError for a request that cannot be fulfilled, or not now.
   */
  async start(request: TextRequest, onDelta: DeltaListener): Promise<TextJob> {
    const perPrompt = choicesPerPrompt(request);
    const total = request.prompts.length * perPrompt;
    if (total > this.#limits.sequences) {
      throw invalid("n", `prompts times choices may be at most ${this.#limits.sequences}`);
    }
    this.engine.checkRoom(request.client, total, 0);
    const toEngine = await this.#engineRequests(request, perPrompt);
    const skipSpecialTokens = request.skip_special_tokens ?? true;
    const prompts: PromptText[] = [];
    for (const prompt of request.prompts) {
      const tokens = await this.#tokenise(prompt, request);
      prompts.push(new PromptText(this.tokenizer, tokens, { skipSpecialTokens }));
      // Other requests get their turn between the prompts of a large one.
      await new Promise((resolve) => setImmediate(resolve));
    }
    const choices = prompts.flatMap((prompt) =>
      Array.from({ length: perPrompt }, () => this.#choice(request, prompt)),
    );
    const job = new TextJob(this.engine, prompts, choices, onDelta);
    job.submit(prompts.flatMap(({ tokens }) => toEngine(tokens)));
    return job;
  }

  /** The ids of a prompt, which with the answer fit the context. */
  async #tokenise(prompt: Prompt, request: TextRequest): Promise<readonly number[]> {
    const { max_tokens, fit_context, prompt_field: field = "prompt" } = request;
    const { maxModelLen, vocabSize } = this.engine.runner;
    const wanted = fit_context ? Math.min(max_tokens ?? 1, 1) : (max_tokens ?? 1);
    const most = request.truncate_prompt_tokens == null ? maxModelLen : Infinity;
    const encoded = await this.encode(prompt, request, most);
    const bounds = { room: maxModelLen - wanted, keepsSpecial: !Array.isArray(prompt) };
    const { count, ids } = this.#truncated(encoded, request, bounds);
    if (count === 0) throw invalid(field, "prompt must not be empty");
    if (ids === null || count + wanted > maxModelLen) {
      const counts = `${count} in the prompt and ${wanted} for the completion`;
      throw tooLong(maxModelLen, `${count + wanted} tokens (${counts})`, field);
    }
    const unknown = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (unknown === undefined) return ids;
    if (Array.isArray(prompt)) throw invalid(field, `token ids must be integers from 0 to ${vocabSize - 1}`);
    throw invalid(
      field,
      `the prompt holds token ${unknown}, which the tokenizer has but the model has not (its vocab_size is ${vocabSize}); ` +
        "leave that token out, or use the tokenizer that belongs to the model",
    );
  }

  /** The end of a prompt, where only that is to be read. Special tokens before a text stay, as in transformers. */
  #truncated(
    prompt: { count: number; ids: readonly number[] | null },
    { truncate_prompt_tokens: asked }: TextRequest,
    { room, keepsSpecial }: { room: number; keepsSpecial: boolean },
  ): typeof prompt {
    const { maxModelLen } = this.engine.runner;
    if (asked == null) return prompt;
    if (!Number.isInteger(asked) || asked < -1 || asked === 0 || asked > maxModelLen) {
      const message = `truncate_prompt_tokens must be -1 or a number of tokens from 1 to ${maxModelLen}`;
      throw invalid("truncate_prompt_tokens", message);
    }
    const most = asked === -1 ? Math.max(room, 1) : asked;
    const ids = prompt.ids!;
    if (ids.length <= most) return prompt;
    const first = keepsSpecial ? ids.findIndex((id) => !this.tokenizer.isSpecial(id)) : 0;
    const kept = Math.min(Math.max(first, 0), most);
    return { count: most, ids: [...ids.slice(0, kept), ...ids.slice(ids.length - (most - kept))] };
  }

  /**
   * The number of ids of a prompt, and the ids unless they are more than `most`.
   * @throws RequestError for a text so long that no context of the model holds it.
   */
  async encode(
    prompt: Prompt,
    { add_special_tokens, prompt_field = "prompt" }: Pick<TextRequest, "add_special_tokens" | "prompt_field">,
    most = Infinity,
  ): Promise<{ count: number; ids: readonly number[] | null }> {
    const { maxModelLen } = this.engine.runner;
    if (typeof prompt !== "string" && !("pieces" in prompt)) return { count: prompt.length, ids: prompt };
    const pieces = typeof prompt === "string" ? [prompt] : prompt.pieces;
    const characters = pieces.reduce(
      (sum: number, piece) => sum + (typeof piece === "string" ? piece.length : 1),
      0,
    );
    if (characters > maxModelLen * this.#limits.charsPerToken) {
      throw tooLong(maxModelLen, `${characters} characters in the prompt`, prompt_field);
    }
    return typeof prompt === "string"
      ? this.tokenizer.encodeUpTo(most, prompt, { addSpecialTokens: add_special_tokens ?? true })
      : this.tokenizer.encodePiecesUpTo(most, pieces);
  }

  #choice(request: TextRequest, prompt: PromptText): Choice {
    return new Choice(this.tokenizer, {
      prompt,
      echo: request.echo ?? false,
      logprobs: request.logprobs ?? null,
      promptLogprobs: request.prompt_logprobs ?? null,
      stops: [request.stop ?? []].flat(),
      includeStop: request.include_stop_str_in_output ?? false,
      minTokens: request.min_tokens ?? 0,
    });
  }

  /** Checks the other fields; returns a function that makes the engine requests of one prompt. */
  async #engineRequests(request: TextRequest, count: number) {
    const { vocabSize, maxModelLen } = this.engine.runner;
    const sampling = resolveSampling(request, vocabSize);
    const stopIds = request.stop_token_ids ?? [];
    if (stopIds.some((id) => id >= vocabSize)) {
      throw invalid("stop_token_ids", `stop_token_ids must be token ids from 0 to ${vocabSize - 1}`);
    }
    const maxTokens = request.max_tokens ?? maxModelLen;
    const minTokens = request.min_tokens ?? 0;
    if (minTokens > maxTokens) {
      throw invalid("min_tokens", `min_tokens (${minTokens}) must not exceed max_tokens (${maxTokens})`);
    }
    const stopTokenIds = new Set([...(request.ignore_eos ? [] : this.tokenizer.eosIds), ...stopIds]);
    if (minTokens > 0 && stopTokenIds.size >= vocabSize) {
      throw invalid("stop_token_ids", "stop_token_ids leave no token to begin with, as min_tokens wants");
    }
    const constraint = await constraintOf(request, {
      ...{ grammars: this.#grammars, vocabSize, stopTokenIds },
      encode: async (text) =>
        (await this.tokenizer.encodeUpTo(Infinity, text, { addSpecialTokens: false })).ids!,
    });
    const scored = Math.max(request.echo ? (request.logprobs ?? -1) : -1, request.prompt_logprobs ?? -1);
    // `best_of` ranks the answers by their log probabilities.
    const isRanked = count > (request.n ?? 1);
    return (prompt: readonly number[]): Omit<Request, "id">[] => {
      const seed = request.seed == null ? freshSeed() : sampling.seed;
      const { weights = null } = this.engine.runner;
      const salt =
        weights === null ? (request.cache_salt ?? null) : JSON.stringify([request.cache_salt, weights]);
      return Array.from({ length: count }, (_, choice) => ({
        client: request.client,
        prompt,
        sampling: { ...sampling, seed, choice },
        maxTokens: Math.min(maxTokens, maxModelLen - prompt.length),
        minTokens,
        stopTokenIds,
        constraint: constraint(),
        priority: request.priority ?? 0,
        topLogprobs: request.logprobs ?? (isRanked ? 0 : null),
        scorePrompt: scored >= 0,
        promptLogprobs: scored < 0 ? null : scored,
        adapter: this.#adapter,
        cacheSalt: salt,
      }));
    };
  }
}

function choicesPerPrompt(request: TextRequest): number {
  const n = request.n ?? 1;
  const bestOf = request.best_of ?? n;
  if (bestOf < n) throw invalid("best_of", `best_of (${bestOf}) must be at least n (${n})`);
  return bestOf;
}

function tooLong(maxModelLen: number, requested: string, param: string): RequestError {
  return new RequestError(
    "context_length_exceeded",
    `this model's maximum context length is ${maxModelLen} tokens, but the request has ${requested}; shorten the prompt or ask for fewer tokens`,
    { param },
  );
}
