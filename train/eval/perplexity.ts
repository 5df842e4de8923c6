import { KilnError, usageError } from "../../core/errors.ts";
import { TextSize } from "../../core/statistics/words.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { Encoder } from "../../models/encoder.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { type ReadOptions, readDocuments, type TextPart } from "../data/index.ts";
import { Perplexity } from "../metrics/perplexity.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { type DocumentScore, encodedParts } from "./documents.ts";
import { logLikelihoods, type Piece } from "./likelihood.ts";
import { pseudoLikelihoods } from "./pseudo_likelihood.ts";
import { SpeedMeter } from "./speed.ts";

export interface WindowOptions {
  /** Tokens that a prediction can see at most. */
  context: number;
  /** Tokens that each window after the first scores: `context` as in lm-eval, fewer for more context and more work. */
  stride: number;
}

/** A model that writes text, with its tokenizer. */
export type Scorer = Pick<LoadedModel, "model" | "tokenizer">;

type Window = Piece & { document: TextSize; ends: boolean };

/**
 * The log-likelihood of each document: every token is scored once, in rolling windows as in lm-eval's
 * `loglikelihood_rolling`. The first token follows the tokenizer's begin token, or else its end token; without either it is
 * not scored. Memory does not grow with the data, nor with the length of a document.
 */
export async function* scoreDocuments(
  { model, tokenizer }: Scorer,
  documents: AsyncIterable<TextPart>,
  options: WindowOptions,
  meter?: SpeedMeter,
): AsyncGenerator<DocumentScore> {
  let [logLikelihood, tokens] = [0, 0];
  const windows = windowsOf(tokenizer, documents, options);
  for await (const { piece, logLikelihood: sum } of logLikelihoods(model, windows, meter)) {
    logLikelihood += sum;
    tokens += piece.tokens.length - piece.from;
    if (!piece.ends) continue;
    yield { logLikelihood, tokens, size: piece.document };
    [logLikelihood, tokens] = [0, 0];
  }
}

/** The windows of each document, in order; those of a document share its `document`. */
export async function* windowsOf(
  tokenizer: Tokenizer,
  documents: AsyncIterable<TextPart>,
  { context, stride }: WindowOptions,
): AsyncGenerator<Window> {
  const prefix = tokenizer.bosId ?? tokenizer.eosId;
  const begin = (): { ids: number[]; next: number; isFirst: boolean; document: TextSize } => ({
    ids: prefix === null ? [] : [prefix],
    next: 1,
    isFirst: true,
    document: new TextSize(),
  });
  let state = begin();
  /** The next window, of `count` tokens that were not scored yet. */
  const window = (count: number, ends: boolean): Window => {
    const { ids, next, document } = state;
    const end = next + count;
    const start = Math.max(0, end - context - 1);
    const piece = { tokens: ids.slice(start, end), from: next - start, document, ends };
    const keep = Math.max(0, end - context);
    state = { ids: ids.slice(keep), next: end - keep, isFirst: false, document };
    return piece;
  };
  for await (const { ids, text, ends } of encodedParts(tokenizer, documents)) {
    state.document.add(text);
    state.ids = [...state.ids, ...ids];
    const most = () => (state.isFirst ? context : stride);
    const left = () => state.ids.length - state.next;
    while (left() > most()) yield window(most(), false);
    if (!ends) continue;
    if (left() > 0) yield window(left(), true);
    else yield { tokens: [0, 0], from: 2, document: state.document, ends: true };
    state = begin();
  }
}

export interface PerplexityFlags extends Partial<WindowOptions>, ReadOptions {
  data: string[];
  speed?: boolean;
}

/**
 * The perplexities of a model on the documents of files; of a masked language model the pseudo-perplexities.
 * Errors: a model that predicts no tokens, a context longer than the model's, a stride longer than the context, what
 * `readDocuments` refuses.
 */
export async function evaluatePerplexity(
  { model, tokenizer }: Pick<LoadedModel<CausalLM | Encoder>, "model" | "tokenizer">,
  name: string,
  flags: PerplexityFlags,
): Promise<EvaluationReport> {
  const windows = windowOptions(model, flags);
  const leftOut: Record<string, number> = {};
  const documents = readDocuments(flags.data, flags, (what) => {
    leftOut[what] = (leftOut[what] ?? 0) + 1;
  });
  const meter = new SpeedMeter();
  const isMasked = model instanceof Encoder;
  const scored = isMasked
    ? pseudoLikelihoods({ model: maskedModel(model, name), tokenizer }, documents, windows.context, meter)
    : scoreDocuments({ model, tokenizer }, documents, windows, meter);
  const sums = new Perplexity();
  const counts = { documents: 0, tokens: 0, words: 0, bytes: 0 };
  for await (const { logLikelihood, tokens, size } of scored) {
    sums.add(size, logLikelihood, tokens);
    counts.documents++;
    counts.tokens += tokens;
    counts.words += size.words;
    counts.bytes += size.bytes;
  }
  const { tokenPerplexity, wordPerplexity, bytePerplexity, bitsPerByte } = sums.value();
  const scores = isMasked
    ? {
        pseudo_perplexity: tokenPerplexity,
        pseudo_bits_per_byte: bitsPerByte,
        pseudo_word_perplexity: wordPerplexity,
        pseudo_byte_perplexity: bytePerplexity,
      }
    : {
        bits_per_byte: bitsPerByte,
        token_perplexity: tokenPerplexity,
        word_perplexity: wordPerplexity,
        byte_perplexity: bytePerplexity,
      };
  const speed = flags.speed ? { speed: await meter.value(model) } : {};
  const note = isMasked
    ? `Every token is masked once and guessed from all others of its window of ${windows.context} tokens (Salazar et al. 2020). A model that sees both sides guesses more easily than one that sees what comes before: the numbers stand beside a decoder's, by byte or word, but are no probability of the text, and a lower one does not mean a better writer.`
    : `Every token is scored once, after at most ${windows.context} tokens of its document (windows advance by ${windows.stride}). Compare models of different tokenizers by bits per byte or word perplexity only.`;
  return {
    title: `${isMasked ? "Pseudo-perplexity" : "Perplexity"} of ${name}`,
    values: {
      task: "perplexity",
      model: name,
      data: flags.data,
      ...windows,
      ...scores,
      ...counts,
      left_out: leftOut,
      ...speed,
    },
    tables: [valueTable({ ...scores, ...counts, ...leftOut, ...speed.speed })],
    notes: [note],
  };
}

/** The model where it guesses masked tokens. Throws a KilnError for any other encoder. */
function maskedModel(model: Encoder, name: string): Encoder {
  if (model.task === "fill-mask") return model;
  throw new KilnError(
    `${name} is a ${model.config.architectures[0]}, which predicts no tokens; give a masked language model or a decoder`,
    { code: "task_unknown" },
  );
}

/** The windows that flags ask for: by default as long as the model's context, without overlap. */
export function windowOptions(
  model: CausalLM | Encoder,
  { context, stride }: Partial<WindowOptions>,
): WindowOptions {
  if (model instanceof Encoder && stride !== undefined)
    throw usageError("--stride is for models that write token by token; leave it out");
  const longest = model.shape.max_position_embeddings;
  const chosen = { context: context ?? longest, stride: stride ?? context ?? longest };
  if (chosen.context > longest)
    throw usageError(
      `--context ${context} is more than the ${longest} tokens that the model reads; give ${longest} or less`,
    );
  if (chosen.stride <= chosen.context) return chosen;
  throw usageError(
    `--stride ${stride} is more than the context of ${chosen.context} tokens, so tokens would be left out; give ${chosen.context} or less`,
  );
}
