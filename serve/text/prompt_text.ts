import type { StreamDecoder, Tokenizer } from "../../tokenizer/index.ts";

/** The text of a prompt, decoded once for all answers that continue it. */
export class PromptText {
  readonly tokens: readonly number[];
  /** The text that no later token can change. */
  readonly settled: string;
  /** Where the text of each token begins in `settled`, and where the last one ends. */
  readonly offsets: readonly number[];
  /** The text after `settled` if the prompt ended here; the tokens of an answer may change it. */
  readonly held: string;
  readonly skipSpecialTokens: boolean;
  readonly #decoder: StreamDecoder;

  constructor(
    tokenizer: Pick<Tokenizer, "streamDecoder">,
    tokens: readonly number[],
    { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {},
  ) {
    this.tokens = tokens;
    this.skipSpecialTokens = skipSpecialTokens;
    this.#decoder = tokenizer.streamDecoder({ skipSpecialTokens });
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

  /** A decoder for one answer, which has read the prompt: the text of a token depends on those before it. */
  answer(): AnswerDecoder {
    return new AnswerDecoder(this.#decoder.copy(), this.held);
  }
}

/** Text that became certain: the prompt's own, which its decoder had held back, and the answer's. */
export interface AnswerText {
  readonly ofPrompt: string;
  readonly own: string;
}

/**
 * Decodes the tokens after a prompt. The prompt's `settled` and then all `ofPrompt` and `own` text, joined, are the text of
 * prompt and answer together; `ofPrompt` is the part of it that agrees with the prompt decoded alone.
 */
export class AnswerDecoder {
  readonly #decoder: StreamDecoder;
  /** Text of the prompt that has not come yet. */
  #held: string;

  constructor(decoder: StreamDecoder, held: string) {
    this.#decoder = decoder;
    this.#held = held;
  }

  push(id: number): AnswerText {
    return this.#divide(this.#decoder.push(id));
  }

  /** The text held back at the end; call once. */
  flush(): AnswerText {
    return this.#divide(this.#decoder.flush());
  }

  #divide(text: string): AnswerText {
    let common = 0;
    while (common < text.length && text[common] === this.#held[common]) common++;
    // Two different characters may have the same first surrogate.
    if (common > 0 && /^[\uDC00-\uDFFF]/.test(text.slice(common))) common--;
    this.#held = common === text.length ? this.#held.slice(common) : "";
    return { ofPrompt: text.slice(0, common), own: text.slice(common) };
  }
}
