import { KilnError } from "../../core/errors.ts";
import type { CausalLM } from "../../models/decoder.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { Engine } from "../engine/engine.ts";
import { ModelRunner } from "../engine/runner.ts";
import { LIMITS } from "../limits.ts";
import { Frontend } from "./frontend.ts";
import type { SamplingParams } from "./request.ts";

/** How to continue a prompt; `max_tokens` is 256 by default, and the end of the context may come earlier. */
export type GenerateOptions = Omit<SamplingParams, "n" | "best_of" | "logprobs">;

/** A model with an engine of its own, for scripts and the command line: the same steps as the server's. */
export class TextGenerator {
  readonly #frontend: Frontend;
  readonly #runner: ModelRunner;
  readonly #tokenizer: Tokenizer;

  constructor(model: CausalLM, tokenizer: Tokenizer, options: { maxSequences?: number } = {}) {
    const { maxSequences = 8 } = options;
    this.#runner = new ModelRunner(model, { maxSequences });
    this.#tokenizer = tokenizer;
    // There is no connection to time out, so a slow machine may take as long as it needs.
    const limits = { ...LIMITS, stepMs: Number.POSITIVE_INFINITY, queueWaitMs: Number.POSITIVE_INFINITY };
    const engine = new Engine({ runner: this.#runner, maxSeqs: maxSequences, limits });
    this.#frontend = new Frontend(engine, tokenizer, limits);
  }

  /**
   * Continues a prompt (text, or token ids as they are), yielding text as it comes; special tokens are not shown.
   * An empty text starts at the begin-of-text token, or at the end-of-text token if there is none.
   * @throws KilnError for a prompt or option that cannot be used; if the model fails, its own error.
   */
  async *stream(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<string> {
    const request = {
      max_tokens: 256,
      ...options,
      prompts: [prompt === "" ? await this.#beginning() : prompt],
      client: "generator",
      fit_context: true,
    };
    let cancel = () => {};
    yield* new ReadableStream<string>({
      start: async (controller) => {
        const job = await this.#frontend.start(request, (_, { text }) => controller.enqueue(text));
        cancel = () => job.cancel();
        job.done.then(
          () => controller.close(),
          (error) => controller.error(error.cause ?? error),
        );
      },
      cancel: () => cancel(),
    });
  }

  /** The whole continuation at once. */
  async complete(prompt: string | readonly number[], options: GenerateOptions = {}): Promise<string> {
    let text = "";
    for await (const piece of this.stream(prompt, options)) text += piece;
    return text;
  }

  /** Frees the cache; nothing may be running. */
  close(): void {
    this.#runner.close();
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
