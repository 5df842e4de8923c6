import { existsSync } from "node:fs";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { readJson } from "../core/platform/files.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { cast, ne, reshape } from "../kernels/index.ts";
import { type ComputeDtype, normalized, type Pooling, pool } from "../nn/index.ts";
import type { TextEncoding, Tokenizer } from "../tokenizer/index.ts";
import type { AnyModel } from "./architectures.ts";
import type { GenerateOptions } from "./beam_search.ts";
import { Encoder, type EncoderInput } from "./encoder.ts";
import { EncoderDecoder } from "./encoder_decoder.ts";
import { fromPretrained } from "./formats/hf_directory.ts";
import type { Task } from "./labels.ts";
import { rowsOfOne, uploadRows } from "./text_rows.ts";

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
  /** The likeliest passage of `context`; with `top_k` a list of so many. */
  "question-answering": (
    question: string,
    context: string,
    options?: { top_k?: number },
  ) => Promise<Answer | Answer[]>;
  /** An answer to each text, by beam search as the model's generation_config.json has it, or the options. */
  "text2text-generation": (
    texts: string | string[],
    options?: GenerateOptions,
  ) => Promise<{ generated_text: string }[]>;
}

/**
 * A function from texts to answers, as transformers.js has it. `source` is a loaded model with its tokenizer, or the directory
 * to load them from. The bits of an answer do not depend on the other texts of its list.
 *
 * @throws KilnError where the model has no head for the task, or a text is longer than the model reads: none is cut
 */
export async function pipeline<T extends keyof Pipelines>(
  task: T,
  source: string | { model: AnyModel; tokenizer: Tokenizer },
  options: { dtype?: ComputeDtype } = {},
): Promise<Pipelines[T]> {
  const { model, tokenizer } = typeof source === "string" ? await fromPretrained(source, options) : source;
  if (task === "text2text-generation" && model instanceof EncoderDecoder)
    return answering(model, tokenizer) as Pipelines[T];
  if (!(model instanceof Encoder) || (task !== "feature-extraction" && model.task !== task)) {
    const name = String(model.toHfConfig().architectures);
    throw new KilnError(`a ${name} has no head for ${task}; train one, or take a model that has it`, {
      code: "task_unknown",
    });
  }
  return pipelines[task as Task](new Reader(model, tokenizer)) as Pipelines[T];
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

/** Texts that are computed together have at most so many tokens, and rows a multiple of `step`. */
const most = 4096;
const step = 16;

/** Runs a model over texts. */
class Reader {
  readonly model: Encoder;
  readonly tokenizer: Tokenizer;

  constructor(model: Encoder, tokenizer: Tokenizer) {
    this.model = model;
    this.tokenizer = tokenizer;
  }

  encode(texts: readonly (string | readonly [string, string])[]): Promise<TextEncoding[]> {
    return this.tokenizer.encodeTexts(texts);
  }

  /**
   * What `compute` makes of each text: its own part of the result, whose first axis is texts, or all their tokens
   * (`perToken`). With `places` the head reads only that token of each text. Texts of about one length are computed together.
   */
  async read(
    texts: readonly TextEncoding[],
    compute: (input: EncoderInput) => Tensor,
    { perToken = false, places }: { perToken?: boolean; places?: readonly number[] } = {},
  ): Promise<Float32Array[]> {
    const longest = this.model.shape.max_position_embeddings;
    const groups = new Map<number, number[]>();
    texts.forEach(({ ids }, i) => {
      if (ids.length > longest)
        throw new KilnError(`text ${i + 1} has ${ids.length} tokens, the model reads ${longest}; cut it`, {
          code: "text_length",
        });
      const room = Math.min(Math.ceil(ids.length / step) * step, longest);
      groups.set(room, [...(groups.get(room) ?? []), i]);
    });
    const out: Float32Array[] = [];
    for (const [room, members] of groups) {
      const count = Math.max(1, Math.floor(most / room));
      for (let at = 0; at < members.length; at += count) {
        const chosen = members.slice(at, at + count);
        const rows = rowsOfOne(
          this.model,
          chosen.map((i) => texts[i]),
          room,
        );
        const made = scope(() => {
          const input: EncoderInput = { ...uploadRows(rows, this.model), batchInvariant: true };
          if (places)
            input.rows = tensor(
              chosen.map((i, r) => r * room + places[i]),
              [chosen.length],
              "i32",
            );
          return noGrad(() => compute(input));
        });
        const values = Float32Array.from(await made.data());
        dispose(made);
        const size = values.length / chosen.length;
        chosen.forEach((i, r) => {
          const used = perToken ? (size / room) * texts[i].ids.length : size;
          out[i] = values.subarray(r * size, r * size + used);
        });
      }
    }
    return out;
  }

  /** The head's logits for each text, or for each of its tokens. */
  logits(texts: readonly TextEncoding[], places?: readonly number[]): Promise<Float32Array[]> {
    const perToken = this.model.task !== "text-classification" && !places;
    return this.read(texts, (input) => this.model.logits(input), { perToken, ...(places && { places }) });
  }
}

function softmax(logits: ArrayLike<number>): number[] {
  const highest = Math.max(...Array.from(logits));
  const powers = Array.from(logits, (x) => Math.exp(x - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / total);
}

/** The indices of the largest values, the largest first, of equal ones the first. */
const top = (values: readonly number[], count: number): number[] =>
  values
    .map((_, i) => i)
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, count);

/** For one text the first of the answers. */
const same = <T, R>(texts: T, answers: R[]) => (Array.isArray(texts) ? answers : answers[0]) as never;
const listOf = (texts: string | string[]): string[] => [texts].flat();

const pipelines: { [T in Task]: (reader: Reader) => Pipelines[T] } = {
  "text-classification": (reader) => {
    const { labels, config } = reader.model;
    const independent = config.problem_type === "multi_label_classification" || labels.length === 1;
    const scoresOf = (logits: Float32Array) =>
      independent ? Array.from(logits, (x) => 1 / (1 + Math.exp(-x))) : softmax(logits);
    return async (texts, { top_k = 1 } = {}) => {
      const found = (await reader.logits(await reader.encode(listOf(texts)))).map((logits) => {
        const scores = scoresOf(logits);
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
        if (place >= 0) return place;
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
          sequence: tokenizer.decode(ids.with(places[t], token)),
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
        const hidden = reader.model.hidden(input);
        const rows =
          pooling === "none" ? reshape(hidden, [-1, width]) : pool(hidden, ne(input.segments!, 0), pooling);
        return cast(normalize ? normalized(rows) : rows, "f32");
      };
      const found = await reader.read(encodings, compute, { perToken });
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
    async (question, context, { top_k = 1 } = {}) => {
      const [encoding] = await reader.encode([[question, context]]);
      const [logits] = await reader.logits([encoding]);
      const { sources, offsets } = encoding;
      // The first token stands for "no answer": it takes its share, and is no answer itself.
      const places = sources.flatMap((source, i) => (i === 0 || source === 1 ? [i] : []));
      const [begins, ends] = [0, 1].map((which) => softmax(places.map((i) => logits[2 * i + which])));
      const spans = places.flatMap((first, a) =>
        places.slice(a).map((last, b) => ({ first, last, score: begins[a] * ends[a + b] })),
      );
      const answers = spans
        .filter(({ first }) => first > 0)
        .sort((a, b) => b.score - a.score)
        .slice(0, top_k)
        .map(({ first, last, score }) => {
          const [start, end] = [offsets[first][0], offsets[last][1]];
          return { answer: context.slice(start, end), score, start, end };
        });
      return top_k === 1 ? answers[0] : answers;
    },
};
