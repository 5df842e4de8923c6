import { Tokenizer as PageTokenizer } from "@huggingface/tokenizers";

/**
 * Stands for the native `tokenizers` in bundles for pages (bin/bundle_plugin.ts): what tokenizer.ts asks of it, by Hugging Face's
 * own library in JavaScript. It gives the same ids; where tokens begin and end in a text it does not say.
 */

interface EncodeOptions {
  addSpecialTokens?: boolean;
}

/** The ids of a text. */
class Encoding {
  readonly #ids: number[];

  constructor(ids: number[]) {
    this.#ids = ids;
  }

  getIds(): number[] {
    return this.#ids;
  }

  getLength(): number {
    return this.#ids.length;
  }

  getOffsets(): never {
    throw new Error("where tokens begin and end is not known in a browser: run it in Node");
  }

  getSequenceIds(): never {
    return this.getOffsets();
  }

  getTypeIds(): never {
    return this.getOffsets();
  }
}

export class Tokenizer {
  readonly #tokenizer: PageTokenizer;

  private constructor(json: string) {
    // The second is tokenizer_config.json, whose one part that changes ids is a clean-up of decoded text.
    this.#tokenizer = new PageTokenizer(JSON.parse(json), {});
  }

  static fromString(json: string): Tokenizer {
    return new Tokenizer(json);
  }

  /** Nothing is ever cut or filled up here. */
  disableTruncation(): void {}

  disablePadding(): void {}

  async encode(text: string, pair: string | null, options: EncodeOptions): Promise<Encoding> {
    return this.#encoding(text, pair, options);
  }

  async encodeBatch(texts: string[], options: EncodeOptions): Promise<Encoding[]> {
    return texts.map((text) => this.#encoding(text, null, options));
  }

  getVocab(withAdded: boolean): Record<string, number> {
    return Object.fromEntries(this.#tokenizer.get_vocab(withAdded));
  }

  getDecoder(): { decode(tokens: string[]): string } | null {
    return this.#tokenizer.decoder;
  }

  #encoding(text: string, text_pair: string | null, { addSpecialTokens = true }: EncodeOptions): Encoding {
    const { ids } = this.#tokenizer.encode(text, { text_pair, add_special_tokens: addSpecialTokens });
    return new Encoding(ids);
  }
}
