import { compile } from "../core/compile.ts";
import { checkOptions, KilnError } from "../core/errors.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { full, type Tensor, tensor, zeros } from "../core/tensor.ts";
import { cat, eq, narrow, reshape, where } from "../kernels/index.ts";
import {
  type CachedContext,
  crossEntropyLoss,
  type LayerCache,
  PassDropout,
  type RunOptions,
} from "../nn/index.ts";
import { BeamSearch, type GenerateOptions, generateOptions, parseGeneration } from "./beam_search.ts";
import type { SpecialTokens } from "./config.ts";
import { Model } from "./model.ts";

/** Texts to be answered, a row each. */
export interface SourceTexts extends RunOptions {
  /** [B, S] i32. */
  tokens: Tensor;
  /** bool [B, 1, 1, S]: false hides padding. */
  mask?: Tensor | undefined;
}

export interface Seq2SeqBatch extends Pick<SourceTexts, "tokens" | "mask"> {
  /** [B, T] i32: the answers; -100 is not supervised. */
  labels: Tensor;
  /** u32 [4]: seeds the dropout of this pass; without it nothing is dropped. */
  dropoutKey?: Tensor | undefined;
}

/** Where the newest tokens of N answers stand: in the cache of the answers, and in that of what they answer. */
export interface BeamContext {
  own: CachedContext & { slots: Tensor };
  source: CachedContext;
}

/**
 * A model that reads a text and writes another: an encoder, and a decoder that also attends to the encoder's hidden states.
 * Which answers it gives by default follows from `generation`.
 */
export abstract class EncoderDecoder extends Model<Seq2SeqBatch> {
  abstract override readonly config: { readonly model_type: string } & SpecialTokens & {
      readonly decoder_start_token_id: number;
    };
  /** The content of generation_config.json; null where the model has none, and its config.json says what is known. */
  generation: Record<string, unknown> | null = null;

  /** Hidden states [B, S, hidden_size] of the encoder; `each` sees the input of every block and the result. */
  abstract encode(source: SourceTexts, each?: (x: Tensor) => void): Tensor;
  /** Hidden states [B, T, hidden_size] of the decoder for its input [B, T], likewise. */
  abstract decode(tokens: Tensor, encoded: Tensor, source: SourceTexts, each?: (x: Tensor) => void): Tensor;
  /** f32 logits [..., vocab_size] of the decoder's hidden states. */
  abstract logits(hidden: Tensor, options?: RunOptions): Tensor;
  /** The keys and values that each layer of the decoder makes of the encoder's hidden states: [..., heads, head_dim]. */
  abstract keysValues(encoded: Tensor): [key: Tensor, value: Tensor][];
  /** Logits [N, vocab_size] after the newest tokens [N] of answers, whose keys and values are written to `cache`. */
  abstract logitsCached(
    tokens: Tensor,
    cache: readonly LayerCache[],
    sourceCache: readonly LayerCache[],
    context: BeamContext,
  ): Tensor;

  /** Sum of -log p(label) over the supervised labels; the decoder reads the labels shifted to the right. */
  loss({ labels, dropoutKey, ...texts }: Seq2SeqBatch): Tensor {
    const source = { ...texts, dropout: dropoutKey && new PassDropout(dropoutKey, this.dropoutRates) };
    const { decoder_start_token_id: start, pad_token_id } = this.config;
    const [rows, length] = labels.shape;
    const known = where(eq(labels, -100), pad_token_id ?? 0, labels);
    const input = cat([full([rows, 1], start, "i32"), narrow(known, 1, 0, length - 1)], 1);
    const hidden = this.decode(input, this.encode(source), source); // [B, T, hidden]
    const logits = reshape(this.logits(hidden), [rows * length, -1]);
    return crossEntropyLoss(logits, reshape(labels, [-1]), { reduction: "sum" });
  }

  override extraFiles(): Record<string, unknown> {
    const { bos_token_id, eos_token_id, pad_token_id, decoder_start_token_id } = this.config;
    const known = Object.entries(this.config).filter(([key]) => generateOptions.includes(key));
    const own = { bos_token_id, eos_token_id, pad_token_id, decoder_start_token_id };
    return { "generation_config.json": this.generation ?? { ...own, ...Object.fromEntries(known) } };
  }

  /**
   * The likeliest answers to texts, given as ids with special tokens around them: the ids of each from its first token
   * (`decoder_start_token_id`) to the one that ends it, as transformers' `generate` returns them without padding. Options go
   * before those of `generation`. The bits of an answer do not depend on the other texts.
   *
   * @throws KilnError for a text that is longer than the model reads, and for settings that kiln does not follow
   */
  async generate(sources: readonly ArrayLike<number>[], options: GenerateOptions = {}): Promise<number[][]> {
    const { eos_token_id, decoder_start_token_id } = this.config;
    const { max_position_embeddings: positions } = this.shape;
    const given = this.generation ?? this.config;
    const wanted = checkOptions("generate", options, generateOptions);
    const all = { eos_token_id, decoder_start_token_id, ...given, ...wanted };
    const settings = parseGeneration(all, positions, "the settings of generation");
    sources.forEach(({ length }, i) => {
      if (length > 0 && length <= positions) return;
      throw new KilnError(`text ${i + 1} has ${length} tokens; the model reads 1 to ${positions}`, {
        code: "text_length",
      });
    });
    const searches = sources.map((source) => new BeamSearch(source, settings));
    const decoder = new BeamDecoder(this, sources, settings.beams, settings.maxLength);
    try {
      while (searches.some(({ done }) => !done)) {
        const beams = searches.flatMap((search) => search.beams);
        const logits = await decoder.next(
          beams.map(({ tokens }) => tokens.at(-1)!),
          beams.map(({ parent }, row) => row - (row % settings.beams) + parent),
        );
        const size = logits.length / searches.length;
        searches.forEach((search, i) => {
          if (!search.done) search.advance(logits.subarray(i * size, (i + 1) * size));
        });
      }
    } finally {
      decoder.close();
    }
    return searches.map(({ best }) => [...best]);
  }
}

/** The keys and values that the decoder's layers make of texts, one text behind another: [places, 1, heads, head_dim]. */
function sourceCacheOf(model: EncoderDecoder, sources: readonly ArrayLike<number>[]): LayerCache[] {
  const each = sources.map((ids) =>
    scope(() =>
      noGrad(() => {
        const encoded = model.encode({ tokens: tensor(ids, [1, ids.length], "i32"), batchInvariant: true });
        return model.keysValues(reshape(encoded, [ids.length, 1, -1]));
      }),
    ),
  );
  const joined = scope(() =>
    each[0].map((_, layer) => {
      const [key, value] = [0, 1].map((which) => cat(each.map((layers) => layers[layer][which])));
      return { key, value };
    }),
  );
  dispose(each);
  return joined;
}

/**
 * The decoder at work on `width` answers to each of several texts. The keys and values of the texts are computed once, those of
 * the answers are never moved: where a beam goes on from another, it takes over that one's list of places. Both are paged
 * caches with blocks of one token.
 */
class BeamDecoder {
  readonly #maxLength: number;
  readonly #caches: { own: LayerCache[]; source: LayerCache[] };
  /** i32; written before each step: [rows] three times, and the places of each answer's tokens [rows, maxLength]. */
  readonly #inputs: { tokens: Tensor; positions: Tensor; slots: Tensor; table: Tensor };
  /** Where the texts stand in their cache, and which text each row answers. */
  readonly #source: CachedContext;
  readonly #numbers: Tensor;
  readonly #logits: () => Tensor;
  #table: Int32Array;
  #position = 0;

  constructor(
    model: EncoderDecoder,
    sources: readonly ArrayLike<number>[],
    width: number,
    maxLength: number,
  ) {
    const rows = sources.length * width;
    const i32 = (shape: number[], valueAt: (index: number) => number) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return persist(
        tensor(
          Int32Array.from({ length: size }, (_, i) => valueAt(i)),
          shape,
          "i32",
        ),
      );
    };
    this.#maxLength = maxLength;
    this.#table = new Int32Array(rows * maxLength);
    const source = persist(sourceCacheOf(model, sources));
    const own = source.map(({ key: { shape, dtype } }) => {
      const empty = () => persist(zeros([rows * maxLength, ...shape.slice(1)], dtype));
      return { key: empty(), value: empty() };
    });
    this.#caches = { own, source };
    const [tokens, positions, slots] = Array.from({ length: 3 }, () => i32([rows], () => 0));
    const table = i32([rows, maxLength], () => 0);
    this.#inputs = { tokens, positions, slots, table };
    this.#numbers = i32([rows], (row) => row);
    const starts = sources.map((_, i) => sources.slice(0, i).reduce((sum, { length }) => sum + length, 0));
    const longest = sources.reduce((most, { length }) => Math.max(most, length), 0);
    const textOf = (row: number) => Math.floor(row / width);
    this.#source = {
      positions: i32([rows], (row) => sources[textOf(row)].length - 1),
      sequences: i32([rows], textOf),
      blockTable: i32([sources.length, longest], (i) => starts[Math.floor(i / longest)] + (i % longest)),
    };
    const context = {
      own: { positions, slots, sequences: this.#numbers, blockTable: table },
      source: this.#source,
    };
    this.#logits = compile(() => noGrad(() => model.logitsCached(tokens, own, source, context)));
  }

  /** Logits [rows, vocab_size] after each row's next token; `parents` are the rows of the call before that they go on from. */
  async next(tokens: readonly number[], parents: readonly number[]): Promise<Float32Array> {
    const { length: rows } = tokens;
    const position = this.#position++;
    const slots = tokens.map((_, row) => position * rows + row);
    const table = new Int32Array(this.#table.length);
    parents.forEach((parent, row) => {
      const from = parent * this.#maxLength;
      table.set(this.#table.subarray(from, from + position), row * this.#maxLength);
      table[row * this.#maxLength + position] = slots[row];
    });
    this.#table = table;
    this.#inputs.tokens.write(tokens);
    this.#inputs.positions.write(tokens.map(() => position));
    this.#inputs.slots.write(slots);
    this.#inputs.table.write(table);
    const logits = scope(this.#logits);
    try {
      return (await logits.data()) as Float32Array;
    } finally {
      dispose(logits);
    }
  }

  close(): void {
    dispose([this.#caches, this.#inputs, this.#source, this.#numbers]);
  }
}
