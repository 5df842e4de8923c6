import { KilnError } from "../../core/errors.ts";
import type { CausalLM } from "../../models/causal_lm.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { Engine } from "../engine/engine.ts";
import { ModelRunner } from "../engine/runner.ts";
import { PromptText } from "./prompt_text.ts";
import { beyondVocabulary, type RawSamplingParams, resolveSampling } from "./sampling.ts";

/** What `generate` may be told besides the prompt. */
export interface GenerateOptions extends RawSamplingParams {
  /** Tokens to write at most; the context's end stops earlier. */
  max_tokens?: number;
}

/** A model with an engine of its own, for scripts and the command line: the same steps as the server's. */
export class TextGenerator {
  readonly #engine: Engine;
  readonly #runner: ModelRunner;
  readonly #tokenizer: Tokenizer;
  #requests = 0;
  /** What went wrong inside: clients of a server do not see it, here it is the message. */
  #failure: unknown = null;

  constructor(model: CausalLM, tokenizer: Tokenizer, options: { maxSequences?: number } = {}) {
    const { maxSequences = 8 } = options;
    this.#runner = new ModelRunner(model, { maxSequences });
    this.#engine = new Engine({
      runner: this.#runner,
      maxSeqs: maxSequences,
      // Nobody waits at the other end of a connection: a slow machine is let finish.
      limits: { stepMs: Number.POSITIVE_INFINITY, queueWaitMs: Number.POSITIVE_INFINITY },
      onError: (error) => {
        this.#failure = error;
      },
    });
    this.#tokenizer = tokenizer;
  }

  /**
   * Continues a prompt (text, or token ids as they are), yielding text as it comes; special tokens are not shown.
   * An empty text starts at the begin-of-text token, or where there is none at the end-of-text token.
   */
  async *stream(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<string> {
    const ids = typeof prompt === "string" ? await this.#promptIds(prompt) : prompt;
    const strange = ids.find((id) => id >= this.#runner.vocabSize);
    if (strange !== undefined) throw new KilnError(beyondVocabulary(strange, this.#runner));
    const room = this.#runner.maxModelLen - ids.length;
    if (room <= 0) {
      throw new KilnError(
        `the prompt has ${ids.length} tokens, the model's context ${this.#runner.maxModelLen}; shorten the prompt`,
      );
    }
    const events = this.#submit(ids, options, Math.min(options.max_tokens ?? 256, room));
    const decoder = new PromptText(this.#tokenizer, ids).answer();
    for await (const id of events) {
      const { own } = decoder.push(id);
      if (own) yield own;
    }
    const { own } = decoder.flush();
    if (own) yield own;
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

  async #promptIds(prompt: string): Promise<number[]> {
    const ids = await this.#tokenizer.encode(prompt);
    const first = this.#tokenizer.bosId ?? this.#tokenizer.eosId;
    if (ids.length > 0) return ids;
    if (first === null)
      throw new KilnError(
        "the prompt is empty and this tokenizer has no token that begins a text; give a prompt",
      );
    return [first];
  }

  /** Ids as the engine samples them, without the one that ends the text. */
  #submit(prompt: readonly number[], options: GenerateOptions, maxTokens: number): AsyncGenerator<number> {
    const stopTokenIds = new Set(this.#tokenizer.eosIds);
    const freshSeed = () => [Math.floor(Math.random() * 2 ** 32), 0] as const;
    const sampling = { ...resolveSampling(options, this.#runner.vocabSize, freshSeed), choice: 0 };
    const queue = new Queue<number>();
    const request = {
      id: `generate-${this.#requests++}`,
      client: "generate",
      prompt,
      sampling,
      maxTokens,
      minTokens: 0,
      stopTokenIds,
      priority: 0,
      topLogprobs: null,
      scorePrompt: false,
    };
    const listener: Parameters<Engine["submit"]>[0][number]["listener"] = ({ token, finish, error }) => {
      if (token && !stopTokenIds.has(token.id)) queue.push(token.id);
      if (finish === "error") queue.fail(this.#failure ?? error);
      else if (finish) queue.end();
    };
    this.#engine.submit([{ request, listener }]);
    return queue.read(() => this.#engine.abort(request.id));
  }
}

/** Hands items from callbacks to one async reader. */
class Queue<T> {
  readonly #items: T[] = [];
  #ended = false;
  #error: unknown = null;
  #wake: () => void = () => {};

  push(item: T): void {
    this.#items.push(item);
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  fail(error: unknown): void {
    this.#error = error;
    this.end();
  }

  /** `leave` is called when the reader stops early. */
  async *read(leave: () => void): AsyncGenerator<T> {
    try {
      for (;;) {
        while (this.#items.length > 0) yield this.#items.shift()!;
        if (this.#error) throw this.#error;
        if (this.#ended) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      leave();
    }
  }
}

/** Continues prompts with a model, one at a time: what a training run draws its samples with. */
export function samplerOf(model: CausalLM, tokenizer: Tokenizer) {
  const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
  return (prompt: string, options: GenerateOptions) => generator.complete(prompt, options);
}
