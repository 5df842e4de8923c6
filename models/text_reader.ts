import { KilnError } from "../core/errors.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { cast, ne } from "../kernels/index.ts";
import { normalized, type Pooling, pool } from "../nn/index.ts";
import type { TextEncoding, Tokenizer } from "../tokenizer/index.ts";
import type { Encoder, EncoderInput } from "./encoder.ts";
import { type EncodedText, rowsOfOne, uploadRows } from "./text_rows.ts";

/** Texts that are computed together have at most so many tokens, and rows a multiple of `step`. */
export const mostBatchTokens = 4096;
const step = 16;
/** Numbers of a result that are held at a time, where the head reads several tokens of a text. */
const mostLogits = 2 ** 25;

/** Told of a text that is longer than the model reads: its tokens, and how many of them count. */
export type OnTruncated = (tokens: number, longest: number) => void;

/** Runs an encoder over texts. The bits of a result do not depend on the other texts. */
export class TextReader {
  readonly model: Encoder;
  readonly tokenizer: Tokenizer;
  readonly #onTruncated: OnTruncated | undefined;

  /** Longer texts are cut where `onTruncated` is told of it; else they are errors. */
  constructor(model: Encoder, tokenizer: Tokenizer, onTruncated?: OnTruncated) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.#onTruncated = onTruncated;
  }

  /** Tokens that a text may have, special ones included. */
  get longest(): number {
    return this.model.shape.max_position_embeddings;
  }

  /** Texts and pairs of texts with special tokens around them; a text that is cut keeps those at its end. */
  async encode(texts: readonly (string | readonly [string, string])[]): Promise<TextEncoding[]> {
    const encodings = await this.tokenizer.encodeTexts(texts);
    return encodings.map((encoding) => {
      const size = encoding.ids.length;
      if (size <= this.longest || !this.#onTruncated) return encoding;
      this.#onTruncated(size, this.longest);
      return cutEncoding(encoding, this.longest);
    });
  }

  /** Tokens of the row in which a text of so many tokens is computed: the bits of its result depend on it. */
  rowLength(tokens: number): number {
    return Math.min(Math.ceil(tokens / step) * step, this.longest);
  }

  /**
   * What `compute` makes of each text: its own part of the result, whose first axis is texts, or all their tokens
   * (`perToken`), or with `places` the places of each text, which are all that the head reads. Texts of about one length are
   * computed together; `compute` gets their indices too.
   * @throws KilnError for a text that is longer than the model reads
   */
  async read(
    texts: readonly EncodedText[],
    compute: (input: EncoderInput, chosen: readonly number[]) => Tensor,
    { perToken = false, places }: { perToken?: boolean; places?: readonly (readonly number[])[] } = {},
  ): Promise<Float32Array[]> {
    const out: Float32Array[] = [];
    for (const { room, chosen } of this.#batches(texts, places)) {
      const members = chosen.map((i) => texts[i]);
      const rows = rowsOfOne(this.model, members, room);
      const made = scope(() => {
        const input: EncoderInput = { ...uploadRows(rows, this.model), batchInvariant: true };
        const read = places && chosen.flatMap((i, r) => places[i].map((place) => r * room + place));
        if (read) input.rows = tensor(read, [read.length], "i32");
        return noGrad(() => compute(input, chosen));
      });
      const values = Float32Array.from(await made.data());
      dispose(made);
      const counts = chosen.map((i) => places?.[i].length ?? 1);
      const size = values.length / counts.reduce((a, b) => a + b, 0);
      let at = 0;
      chosen.forEach((i, r) => {
        const used = perToken ? (size / room) * texts[i].ids.length : counts[r] * size;
        out[i] = values.subarray(at, at + used);
        at += counts[r] * size;
      });
    }
    return out;
  }

  /** The indices of texts that are computed together, and the tokens of their rows. */
  *#batches(texts: readonly EncodedText[], places: readonly (readonly number[])[] | undefined) {
    const groups = new Map<number, number[]>();
    texts.forEach(({ ids }, i) => {
      if (ids.length > this.longest)
        throw new KilnError(
          `text ${i + 1} has ${ids.length} tokens, the model reads ${this.longest}; cut it`,
          { code: "text_length" },
        );
      const room = this.rowLength(ids.length);
      const group = groups.get(room);
      if (group) group.push(i);
      else groups.set(room, [i]);
    });
    const mostPlaces = mostLogits / this.model.shape.vocab_size;
    for (const [room, members] of groups) {
      let chosen: number[] = [];
      let count = 0;
      for (const i of members) {
        const more = places?.[i].length ?? 0;
        if (
          chosen.length > 0 &&
          ((chosen.length + 1) * room > mostBatchTokens || count + more > mostPlaces)
        ) {
          yield { room, chosen };
          [chosen, count] = [[], 0];
        }
        chosen.push(i);
        count += more;
      }
      yield { room, chosen };
    }
  }

  /** The head's logits for each text, or for each of its tokens, or for its `places`. */
  logits(texts: readonly EncodedText[], places?: readonly (readonly number[])[]): Promise<Float32Array[]> {
    const perToken = this.model.task !== "text-classification" && !places;
    return this.read(texts, (input) => this.model.logits(input), { perToken, ...(places && { places }) });
  }

  /** A vector [hidden_size] of each text, of length 1 if `normalize`. */
  vectors(texts: readonly EncodedText[], pooling: Pooling, normalize: boolean): Promise<Float32Array[]> {
    return this.read(texts, (input) => {
      const rows = pool(this.model.hidden(input), ne(input.segments!, 0), pooling);
      return cast(normalize ? normalized(rows) : rows, "f32");
    });
  }
}

/** The first `longest` tokens of a text or a pair, with the special tokens at its end. */
export function cutEncoding({ ids, typeIds, sources, offsets }: TextEncoding, longest: number): TextEncoding {
  const over = ids.length - longest;
  if (over <= 0) return { ids, typeIds, sources, offsets };
  const closing = ids.length - 1 - sources.findLastIndex((source) => source !== null);
  const cut = <T>(values: T[]) => values.toSpliced(Math.max(longest - closing, 0), over);
  return { ids: cut(ids), typeIds: cut(typeIds), sources: cut(sources), offsets: cut(offsets) };
}
