import type { StreamDecoder, Tokenizer } from "../../tokenizer/index.ts";

/** The text of a prompt, decoded once for all the answers that continue it. */
export class PromptText {
  readonly tokens: readonly number[];
  /** What no later token changes. */
  readonly settled: string;
  /** Where the text of each token begins in `settled`, and where that of the last ends. */
  readonly offsets: readonly number[];
  /** What follows `settled` if nothing comes after the prompt; an answer may turn it into something else. */
  readonly held: string;
  readonly #decoder: StreamDecoder;

  constructor(
    tokenizer: Pick<Tokenizer, "streamDecoder">,
    tokens: readonly number[],
    options: { skipSpecialTokens?: boolean } = {},
  ) {
    this.tokens = tokens;
    this.#decoder = tokenizer.streamDecoder(options);
    const offsets = [0];
    let settled = "";
    for (const id of tokens) {
      settled += this.#decoder.push(id);
      offsets.push(settled.length);
    }
    this.settled = settled;
    this.offsets = offsets;
    this.held = this.#decoder.flush();
  }

  /** A decoder of one answer. It has read the prompt: how a token reads depends on what is before it. */
  answer(): AnswerDecoder {
    return new AnswerDecoder(this.#decoder.copy(), this.held);
  }
}

/** Text that an answer's tokens settled: `ofPrompt` is the prompt's own, which its decoder held back, `own` the answer's. */
export interface AnswerText {
  readonly ofPrompt: string;
  readonly own: string;
}

/**
 * Decodes the tokens after a prompt. All `ofPrompt` and `own` text after the prompt's `settled` is, joined, the decoded
 * whole of prompt and answer; `ofPrompt` goes as far as that agrees with the prompt decoded alone.
 */
export class AnswerDecoder {
  readonly #decoder: StreamDecoder;
  /** What the prompt has still to give. */
  #held: string;

  constructor(decoder: StreamDecoder, held: string) {
    this.#decoder = decoder;
    this.#held = held;
  }

  push(id: number): AnswerText {
    return this.#divide(this.#decoder.push(id));
  }

  /** What is held back at the end; call once. */
  flush(): AnswerText {
    return this.#divide(this.#decoder.flush());
  }

  #divide(text: string): AnswerText {
    let common = 0;
    while (common < text.length && text[common] === this.#held[common]) common++;
    // Two characters may share their first half.
    if (common > 0 && /^[\uDC00-\uDFFF]/.test(text.slice(common))) common--;
    this.#held = common === text.length ? this.#held.slice(common) : "";
    return { ofPrompt: text.slice(0, common), own: text.slice(common) };
  }
}
