import { closedByClient, RequestError } from "../engine/errors.ts";
import type { EngineListener, EnginePort } from "../engine/port.ts";
import type { EngineEvent, Request } from "../engine/types.ts";
import type { Choice, ChoiceDelta } from "./choice.ts";
import type { PromptText } from "./prompt_text.ts";

/** Hears each piece of each choice; `index` = prompt index * choices per prompt + choice. */
export type DeltaListener = (index: number, delta: ChoiceDelta) => void;

/** One accepted request: prompts times choices, running in the engine. */
export class TextJob {
  readonly id = crypto.randomUUID().replaceAll("-", "");
  /** Unix time in seconds. */
  readonly created = Math.floor(Date.now() / 1000);
  readonly prompts: readonly PromptText[];
  readonly choices: readonly Choice[];
  /** Resolves when every choice is finished; rejects with the RequestError that ended the request. */
  readonly done: Promise<void>;
  readonly #engine: EnginePort;
  readonly #onDelta: DeltaListener;
  readonly #open = new Set<string>();
  /** By prompt: the tokens of it that none of its choices had to compute. */
  readonly #cached: number[] = [];
  #end!: { resolve: () => void; reject: (error: RequestError) => void };

  constructor(
    engine: EnginePort,
    prompts: readonly PromptText[],
    choices: readonly Choice[],
    onDelta: DeltaListener,
  ) {
    this.#engine = engine;
    this.prompts = prompts;
    this.choices = choices;
    this.#onDelta = onDelta;
    this.done = new Promise((resolve, reject) => {
      this.#end = { resolve, reject };
    });
    // Without a listener (a client that left), a rejection must not end the process.
    this.done.catch(() => {});
  }

  get promptTokens(): number {
    return this.prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
  }

  /** Prompt tokens that were not computed because the cache held them. */
  get cachedTokens(): number {
    return this.#cached.reduce((sum, count) => sum + count, 0);
  }

  get completionTokens(): number {
    return this.choices.reduce((sum, choice) => sum + choice.completionTokens, 0);
  }

  /** Gives the sequences to the engine. @throws RequestError when it has no room. */
  submit(requests: readonly Omit<Request, "id">[]): void {
    const entries = requests.map((request, index) => {
      const id = `${this.id}-${index}`;
      const listener: EngineListener = (event) => this.#hear(id, index, event);
      return { request: { ...request, id }, listener };
    });
    this.#engine.submit(entries);
    for (const { request } of entries) this.#open.add(request.id);
  }

  /** Ends the choices that still run; `done` rejects. */
  cancel(error = closedByClient()): void {
    const open = [...this.#open];
    this.#open.clear();
    for (const id of open) this.#engine.abort(id);
    this.#end.reject(error);
  }

  #hear(id: string, index: number, event: EngineEvent): void {
    if (!this.#open.has(id)) return;
    if (event.error !== null) {
      this.cancel(event.error);
      return;
    }
    const prompt = Math.floor((index * this.prompts.length) / this.choices.length);
    this.#cached[prompt] = Math.min(this.#cached[prompt] ?? Infinity, event.cachedTokens);
    try {
      const choice = this.choices[index];
      const delta = choice.accept(event);
      if (choice.finished) {
        this.#open.delete(id);
        // Does nothing unless a stop string ended the choice, which the engine cannot see.
        this.#engine.abort(id, "stop");
      }
      if (delta !== null) this.#onDelta(index, delta);
      if (this.#open.size === 0) this.#end.resolve();
    } catch (cause) {
      this.cancel(new RequestError("internal_error", "the answer could not be turned into text", { cause }));
    }
  }
}
