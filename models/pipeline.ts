import { existsSync } from "node:fs";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { readJson } from "../core/platform/files.ts";
import { cast, reshape } from "../kernels/index.ts";
import { type ComputeDtype, normalized, type Pooling } from "../nn/index.ts";
import type { TextEncoding, Tokenizer } from "../tokenizer/index.ts";
import type { AnyModel } from "./architectures.ts";
import type { GenerateOptions } from "./beam_search.ts";
import { Encoder, type EncoderInput } from "./encoder.ts";
import { EncoderDecoder } from "./encoder_decoder.ts";
import { fromPretrained } from "./formats/hf_directory.ts";
import type { Task } from "./labels.ts";
import { MaskedGenerator } from "./masked_generation.ts";
import { softmax } from "./sampling.ts";
import { type TextGenerationPipeline, textGeneration } from "./text_generation.ts";
import { type OnTruncated, TextReader } from "./text_reader.ts";

/** A label with its probability. */
export interface LabelScore {
  label: string;
  score: number;
}
export interface TokenLabel {
  entity: string;
  score: number;
  /** Which token of the text, special tokens counted. */
  index: number;
  word: string;
  /** Where in the text it begins and ends, as indices of a string. */
  start: number;
  end: number;
}
export interface MaskFill {
  score: number;
  token: number;
  token_str: string;
  /** The text with the token in place of the mask. */
  sequence: string;
}
/** Vectors: of whole texts [texts, hidden_size], or of tokens [texts, tokens of the longest, hidden_size], 0 behind a text. */
export interface Features {
  type: "float32";
  dims: number[];
  data: Float32Array;
}
export interface Answer {
  answer: string;
  score: number;
  start: number;
  end: number;
}

/** What each pipeline takes and gives: the shapes of transformers.js, of one text or of a list. */
export interface Pipelines {
  /** The `top_k` likeliest labels (1; null: all) of one text, or of each: a list a text unless `top_k` is 1. */
  "text-classification": <T extends string | string[]>(
    texts: T,
    options?: { top_k?: number | null },
  ) => Promise<LabelScore[] | LabelScore[][]>;
  /** The tokens whose label is not among `ignore_labels` (["O"]). */
  "token-classification": <T extends string | string[]>(
    texts: T,
    options?: { ignore_labels?: string[] },
  ) => Promise<T extends string ? TokenLabel[] : TokenLabel[][]>;
  /** The `top_k` (5) likeliest tokens for the first mask. */
  "fill-mask": <T extends string | string[]>(
    texts: T,
    options?: { top_k?: number },
  ) => Promise<T extends string ? MaskFill[] : MaskFill[][]>;
  "feature-extraction": (
    texts: string | string[],
    options?: { pooling?: Pooling | "none"; normalize?: boolean },
  ) => Promise<Features>;
  /**
   * The likeliest passage of `context`; with `top_k` a list of so many. A context that the model cannot read at once is read in
   * windows that share `doc_stride` (128) tokens, each with probabilities of its own.
   */
  "question-answering": (
    question: string,
    context: string,
    options?: { top_k?: number; doc_stride?: number },
  ) => Promise<Answer | Answer[]>;
  /** An answer to each text, by beam search as the model's generation_config.json has it, or the options. */
  "text2text-generation": (
    texts: string | string[],
    options?: GenerateOptions,
  ) => Promise<{ generated_text: string }[]>;
  "text-generation": TextGenerationPipeline;
}

export type PipelineTask = keyof Pipelines;
/** A loaded model with its tokenizer, or the directory to load them from. */
export type PipelineSource = string | { model: AnyModel; tokenizer: Tokenizer };

export interface PipelineOptions {
  dtype?: ComputeDtype;
  /**
   * Told of each text that is longer than the model reads, which is then cut; without it such a text is an error. Contexts of
   * questions are never cut.
   */
  onTruncated?: OnTruncated;
}

/**
 * A function from texts to answers, as transformers.js has it. The bits of an answer do not depend on the other texts of its
 * list. Text is written here by masked language models; `pipeline` of `kiln/serve` writes it with Llama and GPT-2 too.
 *
 * @throws KilnError where the model has no head for the task, or a text is longer than the model reads
 */
export async function pipeline<T extends PipelineTask>(
  task: T,
  source: PipelineSource,
  options: PipelineOptions = {},
): Promise<Pipelines[T]> {
  const { model, tokenizer } = typeof source === "string" ? await fromPretrained(source, options) : source;
  if (task === "text2text-generation" && model instanceof EncoderDecoder)
    return answering(model, tokenizer) as Pipelines[T];
  const isEncoder = model instanceof Encoder;
  if (isEncoder && task === "text-generation")
    return textGeneration(new MaskedGenerator(model, tokenizer), tokenizer) as Pipelines[T];
  if (!isEncoder || (task !== "feature-extraction" && model.task !== task)) {
    const name = String(model.toHfConfig().architectures);
    const remedy =
      task === "text-generation"
        ? `for text of a ${name} import { pipeline } from "kiln/serve"; that of kiln/models has masked language models only`
        : `a ${name} has no head for ${task}; train one, or take a model that has it`;
    throw new KilnError(remedy, { code: "task_unknown" });
  }
  const reader = new TextReader(model, tokenizer, options.onTruncated);
  return pipelines[task as Task](reader) as Pipelines[T];
}

const answering =
  (model: EncoderDecoder, tokenizer: Tokenizer): Pipelines["text2text-generation"] =>
  async (texts, options) => {
    const sources = await tokenizer.encodeBatch([texts].flat());
    const answers = await model.generate(sources, options);
    return answers.map((ids) => ({ generated_text: tokenizer.decode(ids).trim() }));
  };

/** How a model of sentence-transformers makes a vector of a text (`1_Pooling/config.json`), or null where it does not say. */
export async function modelPooling(directory: string): Promise<Pooling | null> {
  const path = join(directory, "1_Pooling", "config.json");
  if (!existsSync(path)) return null;
  const modes = (await readJson(path)) as Record<string, unknown>;
  const on = Object.keys(modes).filter((key) => key.startsWith("pooling_mode_") && modes[key] === true);
  if (on.length === 1 && on[0] === "pooling_mode_cls_token") return "cls";
  if (on.length === 1 && on[0] === "pooling_mode_mean_tokens") return "mean";
  throw new KilnError(
    `${path} asks for ${on.join(", ")}; kiln has the mean of tokens and the first (give --pooling)`,
  );
}

/**
 * What a text classifier says of each label: probabilities, which add up to 1 unless a text may have several labels; of a
 * regression the numbers themselves.
 */
export function labelScores(
  { config, labels }: Pick<Encoder, "config" | "labels">,
  logits: Float32Array,
): number[] {
  if (config.problem_type === "regression") return [...logits];
  const independent = config.problem_type === "multi_label_classification" || labels.length === 1;
  return independent ? Array.from(logits, sigmoid) : [...softmax(logits)];
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** The indices of the largest values, the largest first, of equal ones the first. */
const top = (values: ArrayLike<number>, count: number): number[] =>
  Array.from(values, (_, i) => i)
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, count);

/** For one text the first of the answers. */
const same = <T, R>(texts: T, answers: R[]) => (Array.isArray(texts) ? answers : answers[0]) as never;
const listOf = (texts: string | string[]): string[] => [texts].flat();

const pipelines: { [T in Task]: (reader: TextReader) => Pipelines[T] } = {
  "text-classification": (reader) => {
    const { labels } = reader.model;
    return async (texts, { top_k = 1 } = {}) => {
      const found = (await reader.logits(await reader.encode(listOf(texts)))).map((logits) => {
        const scores = labelScores(reader.model, logits);
        return top(scores, top_k ?? labels.length).map((i) => ({ label: labels[i], score: scores[i] }));
      });
      return top_k === 1 ? found.flat() : same(texts, found);
    };
  },

  "token-classification": (reader) => {
    const { labels } = reader.model;
    return async (texts, { ignore_labels = ["O"] } = {}) => {
      const encodings = await reader.encode(listOf(texts));
      const logits = await reader.logits(encodings);
      const found = encodings.map(({ ids, sources, offsets }, t) =>
        ids.flatMap((id, index): TokenLabel[] => {
          const scores = softmax(logits[t].subarray(index * labels.length, (index + 1) * labels.length));
          const [best] = top(scores, 1);
          if (sources[index] === null || ignore_labels.includes(labels[best])) return [];
          const [start, end] = offsets[index];
          const word = reader.tokenizer.decode([id]);
          return [{ entity: labels[best], score: scores[best], index, word, start, end }];
        }),
      );
      return same(texts, found);
    };
  },

  "fill-mask": (reader) => {
    const { tokenizer } = reader;
    const { maskId } = tokenizer;
    if (maskId === null)
      throw new KilnError("the tokenizer has no mask token; give it one in tokenizer_config.json");
    return async (texts, { top_k = 5 } = {}) => {
      const encodings = await reader.encode(listOf(texts));
      const places = encodings.map(({ ids }, t) => {
        const place = ids.indexOf(maskId);
        if (place >= 0) return [place];
        const mask = tokenizer.idToToken(maskId);
        throw new KilnError(`text ${t + 1} has no ${mask} to fill; write it where a token is missing`);
      });
      const logits = await reader.logits(encodings, places);
      const found = encodings.map(({ ids }, t) => {
        const scores = softmax(logits[t]);
        return top(scores, top_k).map((token) => ({
          score: scores[token],
          token,
          token_str: tokenizer.decode([token]),
          sequence: tokenizer.decode(ids.with(places[t][0], token)),
        }));
      });
      return same(texts, found);
    };
  },

  "feature-extraction": (reader) => {
    const { hidden_size: width } = reader.model.shape;
    return async (texts, { pooling = "none", normalize = false } = {}) => {
      const encodings = await reader.encode(listOf(texts));
      const perToken = pooling === "none";
      const compute = (input: EncoderInput) => {
        const rows = reshape(reader.model.hidden(input), [-1, width]);
        return cast(normalize ? normalized(rows) : rows, "f32");
      };
      const found =
        pooling === "none"
          ? await reader.read(encodings, compute, { perToken })
          : await reader.vectors(encodings, pooling, normalize);
      const room = Math.max(...found.map((values) => values.length));
      const data = new Float32Array(found.length * room);
      found.forEach((values, i) => {
        data.set(values, i * room);
      });
      const dims = perToken ? [found.length, room / width, width] : [found.length, width];
      return { type: "float32", dims, data };
    };
  },

  "question-answering":
    (reader) =>
    async (question, context, { top_k = 1, doc_stride = 128 } = {}) => {
      const [encoding] = await reader.tokenizer.encodeTexts([[question, context]]);
      const windows = windowsOf(encoding, reader.longest, doc_stride);
      const logits = await reader.logits(windows);
      const found = new Map<string, Answer>();
      for (const [w, window] of windows.entries())
        for (const { start, end, score } of passages(window, logits[w], top_k)) {
          const place = `${start} ${end}`;
          if (score > (found.get(place)?.score ?? 0))
            found.set(place, { answer: context.slice(start, end), score, start, end });
        }
      const answers = [...found.values()].sort((a, b) => b.score - a.score).slice(0, top_k);
      return top_k === 1 ? answers[0] : answers;
    },
};

/** A question with its context, or with one part of it after the other: windows of `longest` tokens that share `overlap`. */
function windowsOf(encoding: TextEncoding, longest: number, overlap: number): TextEncoding[] {
  const { ids, typeIds, sources, offsets } = encoding;
  const [from, to] = [sources.indexOf(1), sources.lastIndexOf(1) + 1];
  const room = longest - (ids.length - (to - from));
  if (to - from <= room) return [encoding];
  if (room < 1)
    throw new KilnError(`the question fills the ${longest} tokens that the model reads; shorten it`, {
      code: "text_length",
    });
  const advance = room - Math.min(Math.max(0, overlap), Math.floor(room / 2));
  const count = 1 + Math.ceil((to - from - room) / advance);
  return Array.from({ length: count }, (_, w) => {
    const start = from + w * advance;
    const end = Math.min(start + room, to);
    const cut = <T>(values: T[]) => [
      ...values.slice(0, from),
      ...values.slice(start, end),
      ...values.slice(to),
    ];
    return { ids: cut(ids), typeIds: cut(typeIds), sources: cut(sources), offsets: cut(offsets) };
  });
}

/** The likeliest passages of a window, where each begins and ends in the context. */
function passages({ sources, offsets }: TextEncoding, logits: Float32Array, count: number) {
  // The first token stands for "no answer": it takes its share, and is no answer itself.
  const places = sources.flatMap((source, i) => (i === 0 || source === 1 ? [i] : []));
  const [begins, ends] = [0, 1].map((which) => softmax(places.map((i) => logits[2 * i + which])));
  return places
    .flatMap((first, a) =>
      places.slice(a).map((last, b) => ({ first, last, score: begins[a] * ends[a + b] })),
    )
    .filter(({ first }) => first > 0)
    .sort((a, b) => b.score - a.score)
    .slice(0, count)
    .map(({ first, last, score }) => ({ start: offsets[first][0], end: offsets[last][1], score }));
}
