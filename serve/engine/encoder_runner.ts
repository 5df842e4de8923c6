import { mostBatchTokens, type TextReader } from "../../models/text_reader.ts";
import type { EncodedText } from "../../models/text_rows.ts";
import type { Pooling } from "../../nn/index.ts";

/** The encoder behind its engine. A text's numbers do not depend on the texts that are computed with it. */
export interface EncoderRunner {
  readonly vocabSize: number;
  /** Tokens of the longest text. */
  readonly maxModelLen: number;
  /** Tokens that one run may hold, padding counted. */
  readonly maxBatchTokens: number;
  /** Tokens of the row that a text of so many gets: a run holds texts of one row length. */
  rowLength(tokens: number): number;
  /** Numbers of each text: a vector, or logits. */
  run(texts: readonly EncodedText[]): Promise<readonly Float32Array[]>;
}

/** How a text becomes a vector: see `TextReader.vectors`. */
export interface EmbeddingSettings {
  readonly pooling: Pooling;
  readonly normalize: boolean;
}

/** Runs batches on an encoder: vectors where `embedding` says how to make them, else the logits of its head. */
export class ModelEncoderRunner implements EncoderRunner {
  readonly vocabSize: number;
  readonly maxModelLen: number;
  readonly maxBatchTokens = mostBatchTokens;
  readonly #reader: TextReader;
  readonly #embedding: EmbeddingSettings | null;

  /** @param longest tokens of the longest text, where that is less than the model's positions. */
  constructor(reader: TextReader, embedding: EmbeddingSettings | null, longest = Number.POSITIVE_INFINITY) {
    this.vocabSize = reader.model.shape.vocab_size;
    this.maxModelLen = Math.min(reader.longest, longest);
    this.#reader = reader;
    this.#embedding = embedding;
  }

  rowLength(tokens: number): number {
    return this.#reader.rowLength(tokens);
  }

  run(texts: readonly EncodedText[]): Promise<readonly Float32Array[]> {
    if (this.#embedding === null) return this.#reader.logits(texts);
    return this.#reader.vectors(texts, this.#embedding.pooling, this.#embedding.normalize);
  }
}
