import type { DecoderStage, WholeDecoder } from "./decoders.ts";

/** What a stream decoder needs of a tokenizer. */
export interface TokenSource {
  /** The decoder's stages; null for one that cannot be fed token by token. */
  readonly stages: readonly DecoderStage[] | null;
  /** The text of a whole list of tokens, for a decoder without stages. */
  readonly decodeWhole: WholeDecoder;
  /** The token of an id; null for an unknown id. */
  idToToken(id: number): string | null;
  isSpecial(id: number): boolean;
}

/**
 * Turns token ids into text as they arrive. The joined results of all `push` calls and the final `flush` equal the whole
 * `decode` of the ids. Text is held back only while more tokens could still change it: an unfinished character, a space that
 * the end of the text would drop, or everything, for a decoder without stages. The cost of a token does not depend on how
 * many came before it.
 */
export class StreamDecoder {
  readonly #source: TokenSource;
  readonly #skipSpecialTokens: boolean;
  #states: unknown[];
  /** All tokens so far, if the decoder has no stages. */
  #tokens: string[] = [];

  /** `skipSpecialTokens` (default true) leaves out tokens such as end of text. */
  constructor(source: TokenSource, options: { skipSpecialTokens?: boolean } = {}) {
    this.#source = source;
    this.#skipSpecialTokens = options.skipSpecialTokens ?? true;
    this.#states = (source.stages ?? []).map(({ initial }) => initial);
  }

  /** Adds one token and returns the text that is now final: often the token's own, sometimes "". */
  push(id: number): string {
    const { stages } = this.#source;
    const token = this.#source.idToToken(id);
    if (token === null || (this.#skipSpecialTokens && this.#source.isSpecial(id))) return "";
    if (stages === null) {
      this.#tokens.push(token);
      return "";
    }
    let pieces: readonly string[] = [token];
    stages.forEach((stage, i) => {
      pieces = this.#through(stage, i, pieces);
    });
    return pieces.join("");
  }

  /**
   * The text still held back, as it is if nothing follows: an unfinished character becomes U+FFFD. More tokens may still be
   * pushed.
   */
  flush(): string {
    const { stages } = this.#source;
    if (stages === null) return this.#source.decodeWhole(this.#tokens);
    const before = [...this.#states];
    let pieces: readonly string[] = [];
    stages.forEach((stage, i) => {
      pieces = [...this.#through(stage, i, pieces), ...stage.flush(this.#states[i])];
    });
    this.#states = before;
    return pieces.join("");
  }

  /** An independent decoder that has read the same tokens. */
  copy(): StreamDecoder {
    const twin = new StreamDecoder(this.#source, { skipSpecialTokens: this.#skipSpecialTokens });
    twin.#states = [...this.#states];
    twin.#tokens = [...this.#tokens];
    return twin;
  }

  #through(stage: DecoderStage, i: number, pieces: readonly string[]): readonly string[] {
    if (pieces.length === 1) {
      const [state, out] = stage.push(this.#states[i], pieces[0]);
      this.#states[i] = state;
      return out;
    }
    return pieces.flatMap((piece) => this.#through(stage, i, [piece]));
  }
}
