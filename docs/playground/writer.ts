import { KilnError } from "kiln";
import { type CausalLM, PagedDecoder, settingsRow } from "kiln/models";
import type { Tokenizer } from "kiln/tokenizer";
import type { Turn, WriteOptions } from "./protocol.ts";

/** The file that renders chat templates, put in by the build. */
declare const CHAT_TEMPLATE: string;

const blockSize = 16;
const longest = 4096;

/** Writes text with a model, token by token, from its paged cache of keys and values. */
export class Writer {
  readonly model: CausalLM;
  readonly tokenizer: Tokenizer;
  /** Tokens of prompt and answer together. */
  readonly context: number;
  readonly #decoder: PagedDecoder;
  readonly #blocks: number[];

  constructor(model: CausalLM, tokenizer: Tokenizer) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.context = Math.min(model.shape.max_position_embeddings, longest);
    this.#blocks = Array.from({ length: Math.ceil(this.context / blockSize) }, (_, i) => i);
    const { length } = this.#blocks;
    const sizes = { numBlocks: length, blockSize, maxSequences: 1, maxBlocksPerSequence: length };
    this.#decoder = new PagedDecoder(model, sizes);
  }

  /** The ids of a conversation: as the chat template writes it, or without one all its text, of which the end is kept. */
  async prompt(turns: readonly Turn[]): Promise<number[]> {
    const { tokenizer, context } = this;
    if (tokenizer.chatTemplate === null) {
      const ids = await tokenizer.encode(turns.map(({ content }) => content).join(""));
      if (ids.length === 0) ids.push(tokenizer.bosId ?? tokenizer.eosId ?? 0);
      // Half of the context is left for what is written.
      return ids.length <= context / 2 ? ids : ids.slice(-Math.floor(context / 2));
    }
    // Jinja is a language of its own, which most visits never need.
    const { ChatTemplate } = (await import(CHAT_TEMPLATE)) as typeof import("./chat_template.ts");
    const { pieces } = new ChatTemplate(tokenizer).render(
      { messages: [...turns] },
      { addGenerationPrompt: true },
    );
    const { count, ids } = await tokenizer.encodePiecesUpTo(context - 1, pieces);
    if (ids !== null) return ids;
    throw new KilnError(
      `the conversation has ${count} tokens, more than the ${context} of this model: clear it and begin anew.`,
    );
  }

  /** Yields ids until the model ends its text, `maxTokens` are there, the context is full, or `stopped` says so. */
  async *ids(
    prompt: readonly number[],
    { maxTokens, temperature, seed }: WriteOptions,
    stopped: () => boolean,
  ): AsyncGenerator<number> {
    const [topK, topP] = [0, 0.95];
    const room = Math.min(maxTokens, this.context - prompt.length);
    let tokens = prompt;
    let start = 0;
    for (let i = 0; i < room && !stopped(); i++) {
      const position = start + tokens.length;
      const draw = settingsRow({ temperature, topK, topP, minP: 0, seed: [seed, 0], choice: 0, position });
      const sampled = this.#decoder.sample([
        {
          tokens,
          start,
          blockTable: this.#blocks,
          rows: [tokens.length - 1],
          ...(temperature > 0 && { draw }),
        },
      ]);
      const [id] = await sampled.read();
      sampled.free();
      if (id < 0)
        throw new KilnError(
          "the model's numbers are no longer finite: start a new run, or open another model.",
        );
      if (this.tokenizer.eosIds.includes(id)) return;
      yield id;
      start = position;
      tokens = [id];
    }
  }

  /** The same as text. */
  async *text(turns: readonly Turn[], options: WriteOptions, stopped: () => boolean): AsyncGenerator<string> {
    const decoder = this.tokenizer.streamDecoder();
    for await (const id of this.ids(await this.prompt(turns), options, stopped)) yield decoder.push(id);
    yield decoder.flush();
  }

  close(): void {
    this.#decoder.close();
  }
}
