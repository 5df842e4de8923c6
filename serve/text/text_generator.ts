import { KilnError } from "../../core/errors.ts";
import type { CausalLM } from "../../models/decoder.ts";
import type { Generated, GenerationOptions, TextGeneration } from "../../models/generation.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { Engine } from "../engine/engine.ts";
import { ModelRunner } from "../engine/runner.ts";
import { LIMITS } from "../limits.ts";
import { Frontend } from "./frontend.ts";
import { checkParams } from "./params.ts";
import type { SamplingParams, TextRequest } from "./request.ts";
import { inParallel, writtenTo } from "./request_output.ts";

/** How to continue a prompt; `max_tokens` is 256 by default, and the end of the context may come earlier. */
export type GenerateOptions = Omit<SamplingParams, "n" | "best_of" | "logprobs">;

/** A model with an engine of its own, for scripts and the command line: the same steps as the server's. */
export class TextGenerator implements TextGeneration {
  readonly #frontend: Frontend;
  readonly #maxSequences: number;
  readonly #runner: ModelRunner;
  readonly #tokenizer: Tokenizer;

  constructor(model: CausalLM, tokenizer: Tokenizer, options: { maxSequences?: number } = {}) {
    const { maxSequences = 8 } = options;
    this.#maxSequences = maxSequences;
    this.#runner = new ModelRunner(model, { maxSequences });
    this.#tokenizer = tokenizer;
    // There is no connection to time out, so a slow machine may take as long as it needs.
    const limits = { ...LIMITS, stepMs: Number.POSITIVE_INFINITY, queueWaitMs: Number.POSITIVE_INFINITY };
    const engine = new Engine({ runner: this.#runner, maxSeqs: maxSequences, limits });
    this.#frontend = new Frontend(engine, tokenizer, limits);
  }

  /**
   * Continues a prompt (text, or token ids as they are), yielding text as it comes; special tokens are not shown.
   * An empty text starts at the begin-of-text token, or at the end-of-text token if there is none. Returns what ended it.
   * @throws KilnError for a prompt or option that cannot be used; if the model fails, its own error.
   */
  async *stream(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<string, Generated["finish_reason"]> {
    const request = await this.#request(prompt, options);
    let finish: Generated["finish_reason"] = "length";
    let cancel = () => {};
    yield* new ReadableStream<string>({
      start: async (controller) => {
        const job = await this.#frontend.start(request, (_, { text, finishReason }) => {
          finish = finishReason ?? finish;
          controller.enqueue(text);
        });
        cancel = () => job.cancel();
        job.done.then(
          () => controller.close(),
          (error) => controller.error(error.cause ?? error),
        );
      },
      cancel: () => cancel(),
    });
    return finish;
  }

  /** The whole continuation at once. */
  async complete(prompt: string | readonly number[], options: GenerateOptions = {}): Promise<string> {
    let text = "";
    for await (const piece of this.stream(prompt, options)) text += piece;
    return text;
  }

  /**
   * `n` continuations of each prompt, in the order of the prompts; as many prompts as fit are written at once, and
   * none changes another's text.
   * @throws KilnError as `stream`.
   */
  async generate(
    prompts: readonly (string | readonly number[])[],
    options: GenerationOptions = {},
  ): Promise<Generated[][]> {
    return inParallel(prompts.length, this.#maxSequences, async (index) => {
      const request = await this.#request(prompts[index], options);
      const { outputs } = await writtenTo(this.#frontend, request, String(index));
      return outputs.map(({ text, token_ids, finish_reason }) => ({ text, token_ids, finish_reason }));
    });
  }

  /** Frees the cache; nothing may be running. */
  close(): void {
    this.#runner.close();
  }

  async #request(prompt: string | readonly number[], options: SamplingParams): Promise<TextRequest> {
    const prompts = [prompt === "" ? await this.#beginning() : prompt];
    return { max_tokens: 256, ...checkParams(options), prompts, client: "generator", fit_context: true };
  }

  async #beginning(): Promise<readonly number[]> {
    const ids = await this.#tokenizer.encode("");
    const first = this.#tokenizer.bosId ?? this.#tokenizer.eosId;
    if (ids.length > 0) return ids;
    if (first !== null) return [first];
    throw new KilnError(
      "the prompt is empty and this tokenizer has no token that begins a text; give a prompt",
    );
  }
}

/** Continues prompts one at a time, for the samples of a training run. */
export function samplerOf(model: CausalLM, tokenizer: Tokenizer) {
  const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
  return (prompt: string | readonly number[], options: GenerateOptions) =>
    generator.complete(prompt, options);
}
