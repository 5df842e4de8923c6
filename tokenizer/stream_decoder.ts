import { type DecoderStage, decoderStages } from "./decoders.ts";
import type { ComponentJson } from "./tokenizer_json.ts";

/** What a stream decoder needs of a tokenizer. */
export interface TokenSource {
  readonly decoder: ComponentJson | null;
  /** The token of an id; null for an unknown id. */
  idToToken(id: number): string | null;
  isSpecial(id: number): boolean;
  /** Whole decode, for decoders that cannot be fed token by token. */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
}

/**
 * Turns token ids into text as they arrive. The joined results of all `push` calls and the final `flush` equal
 * the whole `decode` of the ids. Text is held back only while more tokens could still change it: an unfinished
 * UTF-8 sequence, or a run of byte tokens. The cost of a token does not depend on how many came before it.
 */
export class StreamDecoder {
  private readonly source: TokenSource;
  private readonly skipSpecialTokens: boolean;
  private readonly stages: DecoderStage[] | null;
  private readonly held: number[] = [];

  /** `skipSpecialTokens` (default true) leaves out tokens such as end of text. */
  constructor(source: TokenSource, options: { skipSpecialTokens?: boolean } = {}) {
    this.source = source;
    this.skipSpecialTokens = options.skipSpecialTokens ?? true;
    this.stages = decoderStages(source.decoder);
  }

  /** Adds one token and returns the text that it settles, often the token's own, sometimes "". */
  push(id: number): string {
    const token = this.source.idToToken(id);
    if (token === null || (this.skipSpecialTokens && this.source.isSpecial(id))) return "";
    if (this.stages === null) {
      this.held.push(id);
      return "";
    }
    return this.through([token], 0);
  }

  /** The text still held back; call once, at the end. An unfinished UTF-8 sequence becomes U+FFFD. */
  flush(): string {
    if (this.stages === null) {
      return this.source.decode(this.held.splice(0), { skipSpecialTokens: this.skipSpecialTokens });
    }
    return this.stages.map((stage, i) => this.through(stage.flush(), i + 1)).join("");
  }

  private through(pieces: string[], from: number): string {
    for (const stage of this.stages!.slice(from)) pieces = pieces.flatMap((piece) => stage.push(piece));
    return pieces.join("");
  }
}
