import { z } from "zod";
import { KilnError } from "../core/errors.ts";
import { count, refusal, token } from "./config.ts";
import { parseWith } from "./formats/validation.ts";

const tokens = z.union([token.transform((id) => [id]), z.array(token)]).nullish();
const size = z.int().min(0).nullish();

/** The settings of generation that kiln has, with transformers' names and meanings (`GenerationConfig`). */
const schema = z.object({
  /** Tokens of an answer at most and at least, the one that it begins with counted. By default 20 without it, and none. */
  max_length: count.nullish(),
  min_length: size,
  /** The same without the first token; it goes before the other. */
  max_new_tokens: count.nullish(),
  min_new_tokens: size,
  /** How many unfinished answers are kept; 1 (default) takes the likeliest token each time. */
  num_beams: count.nullish(),
  /** The sum of an answer's log-probabilities is divided by its length to this power (1). */
  length_penalty: z.number().nullish(),
  /**
   * When the search ends: true, when there are num_beams answers; false (default), when the best unfinished one could not be
   * among these if it ended now; "never", if it could not however long it became.
   */
  early_stopping: z.union([z.boolean(), z.literal("never")]).nullish(),
  /** No so many tokens occur twice in an answer, or, of the second, both in it and in what it answers. 0 (default): they may. */
  no_repeat_ngram_size: size,
  encoder_no_repeat_ngram_size: size,
  decoder_start_token_id: token,
  eos_token_id: tokens,
  /** The tokens that answers have to begin with, behind the start token, and to end with where they reach max_length. */
  forced_bos_token_id: token.nullish(),
  forced_eos_token_id: tokens,
});

/** What would change the answers and kiln does not do, with the values that change nothing. */
const neutral: Record<string, unknown> = {
  do_sample: false,
  num_return_sequences: 1,
  num_beam_groups: 1,
  repetition_penalty: 1,
  encoder_repetition_penalty: 1,
  renormalize_logits: false,
  bad_words_ids: null,
  sequence_bias: null,
  suppress_tokens: null,
  begin_suppress_tokens: null,
  exponential_decay_length_penalty: null,
};

export type GenerateOptions = Partial<z.input<typeof schema>>;
export const generateOptions = Object.keys(schema.shape);

/** Settings with every default filled in. */
export interface BeamSettings {
  start: number;
  eos: readonly number[];
  maxLength: number;
  minLength: number;
  beams: number;
  lengthPenalty: number;
  earlyStopping: boolean | "never";
  noRepeat: number;
  sourceNoRepeat: number;
  forcedBegin: number | null;
  forcedEnd: readonly number[];
}

/**
 * Checks the content of a generation_config.json, for a model with so many positions. Throws a one-line KilnError for a wrong
 * value, and for settings that kiln does not follow.
 */
export function parseGeneration(value: unknown, positions: number, source: string): BeamSettings {
  const given = parseWith(schema, value, () => source);
  for (const [key, plain] of Object.entries(neutral)) {
    const found = (value as Record<string, unknown>)[key] ?? plain;
    if (found !== plain)
      throw refusal(source)(`${key} is ${JSON.stringify(found)}; kiln generates without it`);
  }
  const { max_new_tokens, min_new_tokens } = given;
  const maxLength = max_new_tokens ? max_new_tokens + 1 : (given.max_length ?? Math.min(21, positions));
  if (maxLength > positions + 1)
    throw refusal(source)(
      `answers of ${maxLength} tokens are asked for, the model has ${positions} positions`,
    );
  return {
    start: given.decoder_start_token_id,
    eos: given.eos_token_id ?? [],
    maxLength,
    minLength: min_new_tokens ? min_new_tokens + 1 : (given.min_length ?? 0),
    beams: given.num_beams ?? 1,
    lengthPenalty: given.length_penalty ?? 1,
    earlyStopping: given.early_stopping ?? false,
    noRepeat: given.no_repeat_ngram_size ?? 0,
    sourceNoRepeat: given.encoder_no_repeat_ngram_size ?? 0,
    forcedBegin: given.forced_bos_token_id ?? null,
    forcedEnd: given.forced_eos_token_id ?? [],
  };
}

/** An answer, or the beginning of one. */
interface Beam {
  tokens: readonly number[];
  /** Sum of the tokens' log-probabilities; of a finished answer divided by the penalty for its length. */
  score: number;
  /** Which of the beams of the step before it goes on. */
  parent: number;
}

/**
 * The search for the likeliest answer to one text: each step extends the beams by every token and keeps the best. The rules and
 * their order are those of transformers 5 (`_beam_search` and its logits processors); with one beam it is greedy.
 */
export class BeamSearch {
  /** The unfinished answers, the best first. */
  beams: readonly Beam[];
  done = false;
  #finished: Beam[] = [];
  readonly #source: ArrayLike<number>;
  readonly #settings: BeamSettings;

  /** `source` is the text that is answered. */
  constructor(source: ArrayLike<number>, settings: BeamSettings) {
    this.#source = source;
    this.#settings = settings;
    // Only the first beam counts in the first step: the others are its copies.
    this.beams = Array.from({ length: settings.beams }, (_, parent) => {
      return { tokens: [settings.start], score: parent === 0 ? 0 : -1e9, parent };
    });
    this.done = settings.maxLength === 1;
  }

  /** The best answer so far, its first token included. */
  get best(): readonly number[] {
    return (this.#finished[0] ?? this.beams[0]).tokens;
  }

  /** Takes the logits [beams, vocab_size] after the beams. */
  advance(logits: Float32Array): void {
    const { beams, eos, maxLength, lengthPenalty, earlyStopping } = this.#settings;
    const length = this.beams[0].tokens.length; // of an answer without its first token, after this step
    const ends = ({ tokens }: Beam) => length + 1 >= maxLength || eos.includes(tokens[length]);
    const best = this.#best(logits, Math.max(2, 1 + eos.length) * beams);
    const ended = best
      .slice(0, beams)
      .filter(ends)
      .map((beam) => ({ ...beam, score: beam.score / length ** lengthPenalty }));
    this.#finished = [...this.#finished, ...ended].sort((a, b) => b.score - a.score).slice(0, beams);
    const running = best.filter((beam) => !ends(beam)).slice(0, beams);
    const isFull = this.#finished.length === beams;
    const longest = earlyStopping === "never" && lengthPenalty > 0 ? maxLength - 1 : length;
    this.done =
      running.length === 0 ||
      (isFull &&
        (beams === 1 ||
          earlyStopping === true ||
          running[0].score / longest ** lengthPenalty <= this.#finished[beams - 1].score));
    if (!this.done) this.beams = running;
  }

  /** The `keep` likeliest continuations, the likeliest first. */
  #best(logits: Float32Array, keep: number): Beam[] {
    const vocabSize = logits.length / this.beams.length;
    const best: { score: number; parent: number; id: number }[] = [];
    this.beams.forEach(({ tokens, score: before }, parent) => {
      const scores = logProbabilities(logits.subarray(parent * vocabSize, (parent + 1) * vocabSize));
      this.#applyRules(scores, tokens);
      scores.forEach((each, id) => {
        const score = before + each;
        if (best.length === keep && score <= best[keep - 1].score) return;
        if (best.length === keep) best.pop();
        const worse = best.findIndex((other) => other.score < score);
        best.splice(worse < 0 ? best.length : worse, 0, { score, parent, id });
      });
    });
    return best.map(({ score, parent, id }) => {
      return { score, parent, tokens: [...this.beams[parent].tokens, id] };
    });
  }

  /** Sets the scores of tokens that may not follow to -infinity. */
  #applyRules(scores: Float32Array, tokens: readonly number[]): void {
    const { noRepeat, sourceNoRepeat, minLength, maxLength, eos, forcedBegin, forcedEnd } = this.#settings;
    const forbid = (ids: Iterable<number>) => {
      for (const id of ids) scores[id] = Number.NEGATIVE_INFINITY;
    };
    const force = (ids: readonly number[]) => {
      scores.fill(Number.NEGATIVE_INFINITY);
      for (const id of ids) scores[id] = 0;
    };
    forbid(repeats(tokens, tokens, noRepeat));
    forbid(repeats(this.#source, tokens, sourceNoRepeat));
    if (tokens.length < minLength) forbid(eos);
    if (forcedBegin !== null && tokens.length === 1) force([forcedBegin]);
    if (forcedEnd.length > 0 && tokens.length === maxLength - 1) force(forcedEnd);
  }
}

/** The tokens that would end a run of `size` tokens behind `tokens` that `text` has too; none for size 0. */
function* repeats(text: ArrayLike<number>, tokens: readonly number[], size: number): Generator<number> {
  const before = size - 1;
  if (size === 0 || tokens.length < before) return;
  const last = tokens.slice(tokens.length - before);
  for (let i = 0; i + before < text.length; i++)
    if (last.every((id, j) => text[i + j] === id)) yield text[i + before];
}

function logProbabilities(logits: Float32Array): Float32Array {
  const highest = logits.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
  const total = logits.reduce((sum, x) => sum + Math.exp(x - highest), 0);
  if (!Number.isFinite(total))
    throw new KilnError("the model's logits are not finite; its weights or the f16 arithmetic overflow", {
      code: "logits_not_finite",
    });
  return logits.map((x) => x - highest - Math.log(total));
}
