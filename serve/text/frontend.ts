import { randomInt, randomUUID } from "node:crypto";
import type { Engine, EngineListener } from "../engine/engine.ts";
import type { EngineEvent, Request } from "../engine/types.ts";
import { badRequest, ServeError } from "../errors.ts";
import type { CompletionBody } from "../http/schema.ts";
import type { Limits } from "../limits.ts";
import { Choice, type ChoiceDelta, type ServeTokenizer } from "./choice.ts";
import { PromptText } from "./prompt_text.ts";
import { beyondVocabulary, resolveSampling } from "./sampling.ts";

export interface FrontendOptions {
  readonly engine: Engine;
  readonly tokenizer: ServeTokenizer;
  /** The name that requests must give. */
  readonly modelName: string;
  readonly limits: Limits;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Who asks. */
export interface Caller {
  /** Shares the model evenly with the other callers. */
  readonly client: string;
  /** Whether it may set `priority`. */
  readonly mayPrioritize: boolean;
}

/** Hears each piece of each choice; `index` = prompt index * choices per prompt + choice. */
export type DeltaListener = (index: number, delta: ChoiceDelta) => void;

const MAX_TOKENS_DEFAULT = 16;

/** One accepted completion request: prompts times choices, running in the engine. */
export class CompletionJob {
  readonly id = `cmpl-${randomUUID().replaceAll("-", "")}`;
  readonly created = Math.floor(Date.now() / 1000);
  readonly prompts: readonly PromptText[];
  readonly choices: readonly Choice[];
  /** Resolves when every choice is finished; rejects with the ServeError that ended the request. */
  readonly done: Promise<void>;
  readonly #engine: Engine;
  readonly #onDelta: DeltaListener;
  readonly #open = new Set<string>();
  #settle!: { resolve: () => void; reject: (error: ServeError) => void };

  constructor(
    engine: Engine,
    prompts: readonly PromptText[],
    choices: readonly Choice[],
    onDelta: DeltaListener,
  ) {
    this.#engine = engine;
    this.prompts = prompts;
    this.choices = choices;
    this.#onDelta = onDelta;
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Nobody may be listening any more when a client has left.
    this.done.catch(() => {});
  }

  usage(): Usage {
    const prompt_tokens = this.prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const completion_tokens = this.choices.reduce((sum, choice) => sum + choice.completionTokens, 0);
    return {
      prompt_tokens,
      completion_tokens,
      total_tokens: prompt_tokens + completion_tokens,
      prompt_tokens_details: { cached_tokens: 0 },
    };
  }

  /** Gives the sequences to the engine. @throws ServeError when it has no room. */
  submit(requests: readonly Omit<Request, "id">[]): void {
    const entries = requests.map((request, index) => {
      const id = `${this.id}-${index}`;
      const listener: EngineListener = (event) => this.#hear(id, index, event);
      return { request: { ...request, id }, listener };
    });
    this.#engine.submit(entries);
    for (const { request } of entries) this.#open.add(request.id);
  }

  /** Ends all that still runs; `done` rejects. For clients that have left. */
  cancel(error = new ServeError(499, "the client closed the request", { code: "client_closed" })): void {
    const open = [...this.#open];
    this.#open.clear();
    for (const id of open) this.#engine.abort(id);
    this.#settle.reject(error);
  }

  #hear(id: string, index: number, event: EngineEvent): void {
    if (!this.#open.has(id)) return;
    if (event.error !== null) {
      this.cancel(event.error);
      return;
    }
    try {
      const choice = this.choices[index];
      const delta = choice.accept(event);
      if (choice.finished) {
        this.#open.delete(id);
        // No-op unless a stop string ended it, of which the engine knows nothing.
        this.#engine.abort(id);
      }
      if (delta !== null) this.#onDelta(index, delta);
      if (this.#open.size === 0) this.#settle.resolve();
    } catch {
      this.cancel(
        new ServeError(500, "the answer could not be turned into text", { code: "internal_error" }),
      );
    }
  }
}

/** Turns completion bodies into engine requests and tokens back into text. Knows no HTTP. */
export class Frontend {
  readonly engine: Engine;
  readonly tokenizer: ServeTokenizer;
  readonly modelName: string;
  readonly #limits: Limits;

  constructor(options: FrontendOptions) {
    this.engine = options.engine;
    this.tokenizer = options.tokenizer;
    this.modelName = options.modelName;
    this.#limits = options.limits;
  }

  /**
   * Checks a body against model and limits, tokenises it and starts it. Listeners hear nothing before this resolves.
   * @throws ServeError 400, 403, 404, 429 or 503.
   */
  async start(body: CompletionBody, caller: Caller, onDelta: DeltaListener): Promise<CompletionJob> {
    if (body.model !== this.modelName) {
      throw new ServeError(
        404,
        `the model \`${body.model.slice(0, 100)}\` does not exist; this server has \`${this.modelName}\``,
        {
          param: "model",
          code: "model_not_found",
        },
      );
    }
    const perPrompt = this.#choicesPerPrompt(body);
    const given = this.#promptList(body.prompt);
    if (given.length * perPrompt > this.#limits.sequences) {
      throw badRequest("n", `prompts times choices may be at most ${this.#limits.sequences}`);
    }
    this.engine.checkRoom(caller.client, given.length * perPrompt, 0);
    const requests = this.#requests(body, caller);
    const skipSpecialTokens = body.skip_special_tokens ?? true;
    const prompts: PromptText[] = [];
    for (const prompt of given) {
      const tokens = await this.#tokenise(prompt, body);
      prompts.push(new PromptText(this.tokenizer, tokens, { skipSpecialTokens }));
      // Many long lists of ids must not keep the others waiting.
      await new Promise((resolve) => setImmediate(resolve));
    }
    const choices = prompts.flatMap((prompt) =>
      Array.from({ length: perPrompt }, () => this.#choice(body, prompt)),
    );
    const job = new CompletionJob(this.engine, prompts, choices, onDelta);
    job.submit(prompts.flatMap(({ tokens }) => requests(tokens, perPrompt)));
    return job;
  }

  #choicesPerPrompt(body: CompletionBody): number {
    const n = body.n ?? 1;
    const bestOf = body.best_of ?? n;
    if (bestOf < n) throw badRequest("best_of", `best_of (${bestOf}) must be at least n (${n})`);
    if (bestOf > n && body.stream) throw badRequest("best_of", "best_of greater than n cannot be streamed");
    if (body.stream_options != null && !body.stream) {
      throw badRequest("stream_options", "stream_options is allowed only with stream: true");
    }
    return bestOf;
  }

  #promptList(prompt: unknown): (string | number[])[] {
    const { prompts } = this.#limits;
    const bad = (message: string) => badRequest("prompt", message);
    if (prompt == null)
      throw bad("prompt is missing: give a string, a list of strings, token ids, or lists of token ids");
    const list = typeof prompt === "string" ? [prompt] : prompt;
    if (!Array.isArray(list))
      throw bad("prompt must be a string, a list of strings, token ids, or lists of token ids");
    if (list.length > prompts && typeof list[0] !== "number")
      throw bad(`at most ${prompts} prompts are allowed in one request, got ${list.length}`);
    if (list.length === 0 || list.some((item) => item === "" || (Array.isArray(item) && item.length === 0))) {
      throw bad("prompt must not be empty");
    }
    if (list.every((item) => typeof item === "number")) return [this.#checkIds(list)];
    if (list.every((item) => typeof item === "string")) return list;
    if (list.every((item) => Array.isArray(item))) return list.map((ids) => this.#checkIds(ids));
    throw bad("prompt must not mix strings and token ids");
  }

  #checkIds(ids: unknown[]): number[] {
    const { vocabSize } = this.engine.runner;
    for (const id of ids) {
      if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
      throw badRequest("prompt", `token ids must be integers from 0 to ${vocabSize - 1}`);
    }
    return ids as number[];
  }

  async #tokenise(prompt: string | number[], body: CompletionBody): Promise<readonly number[]> {
    const maxTokens = body.max_tokens ?? MAX_TOKENS_DEFAULT;
    const { maxModelLen } = this.engine.runner;
    const isText = typeof prompt === "string";
    if (isText && prompt.length > maxModelLen * this.#limits.charsPerToken) {
      throw tooLong(maxModelLen, `${prompt.length} characters in the prompt`);
    }
    const addSpecialTokens = body.add_special_tokens ?? true;
    const { count, ids } = isText
      ? await this.tokenizer.encodeUpTo(maxModelLen, prompt, { addSpecialTokens })
      : { count: prompt.length, ids: prompt };
    if (count === 0) throw badRequest("prompt", "prompt must not be empty");
    if (ids === null || count + maxTokens > maxModelLen) {
      const counts = `${count} in the prompt and ${maxTokens} for the completion`;
      throw tooLong(maxModelLen, `${count + maxTokens} tokens (${counts})`);
    }
    const strange = ids.find((id) => id >= this.engine.runner.vocabSize);
    if (strange !== undefined) throw badRequest("prompt", beyondVocabulary(strange, this.engine.runner));
    return ids;
  }

  #choice(body: CompletionBody, prompt: PromptText): Choice {
    return new Choice(this.tokenizer, {
      prompt,
      echo: body.echo ?? false,
      logprobs: body.logprobs != null,
      stops: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
      includeStop: body.include_stop_str_in_output ?? false,
      minTokens: body.min_tokens ?? 0,
    });
  }

  /** Checks the sampling fields; returns what makes the engine requests of one prompt. */
  #requests(
    body: CompletionBody,
    { client, mayPrioritize }: Caller,
  ): (prompt: readonly number[], count: number) => Omit<Request, "id">[] {
    const priority = body.priority ?? 0;
    if (priority !== 0 && !mayPrioritize) {
      throw new ServeError(403, "priority is only for keys that the server was given as --priority-key", {
        param: "priority",
        code: "priority_not_allowed",
      });
    }
    const { vocabSize } = this.engine.runner;
    const sampling = resolveSampling(body, vocabSize, freshSeed);
    const stopIds = body.stop_token_ids ?? [];
    if (stopIds.some((id) => id >= vocabSize)) {
      throw badRequest("stop_token_ids", `stop_token_ids must be token ids from 0 to ${vocabSize - 1}`);
    }
    const maxTokens = body.max_tokens ?? MAX_TOKENS_DEFAULT;
    const minTokens = body.min_tokens ?? 0;
    if (minTokens > maxTokens) {
      throw badRequest("min_tokens", `min_tokens (${minTokens}) must not exceed max_tokens (${maxTokens})`);
    }
    const stopTokenIds = new Set([...(body.ignore_eos ? [] : this.tokenizer.eosIds), ...stopIds]);
    if (minTokens > 0 && stopTokenIds.size >= vocabSize) {
      throw badRequest("stop_token_ids", "stop_token_ids leave no token to begin with, as min_tokens wants");
    }
    // `best_of` ranks the answers by their log probabilities.
    const ranked = this.#choicesPerPrompt(body) > (body.n ?? 1);
    return (prompt, count) => {
      const seed = body.seed == null ? freshSeed() : sampling.seed;
      return Array.from({ length: count }, (_, choice) => ({
        client,
        prompt,
        sampling: { ...sampling, seed, choice },
        maxTokens,
        minTokens,
        stopTokenIds,
        priority,
        topLogprobs: body.logprobs ?? (ranked ? 0 : null),
        scorePrompt: body.echo === true && body.logprobs != null,
      }));
    };
  }
}

function tooLong(maxModelLen: number, requested: string): ServeError {
  return badRequest(
    "prompt",
    `this model's maximum context length is ${maxModelLen} tokens, but the request has ${requested}; shorten the prompt or lower max_tokens`,
    "context_length_exceeded",
  );
}

function freshSeed(): [number, number] {
  return [randomInt(2 ** 32), randomInt(2 ** 32)];
}
