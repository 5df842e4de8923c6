import { countNgrams, overlap, referenceList } from "../../core/statistics/words.ts";
import { stem } from "../../tokenizer/text/stem.ts";

/** Precision, recall and their harmonic mean, 0 to 1. */
export interface RougeScore {
  precision: number;
  recall: number;
  f1: number;
}

const rougeTypes = ["rouge1", "rouge2", "rougeL", "rougeLsum"] as const;
export type RougeType = (typeof rougeTypes)[number];
export type RougeScores = Record<RougeType, RougeScore>;

const none: RougeScore = { precision: 0, recall: 0, f1: 0 };

/** Lowercase runs of ASCII letters and digits. If `stemmed`, words longer than three characters are stemmed. */
function tokens(text: string, stemmed: boolean): string[] {
  const found = text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return stemmed ? found.map((word) => (word.length > 3 ? stem(word) : word)) : found;
}

function scoreOf(hits: number, targets: number, predictions: number): RougeScore {
  const precision = hits / Math.max(predictions, 1);
  const recall = hits / Math.max(targets, 1);
  return { precision, recall, f1: hits > 0 ? (2 * precision * recall) / (precision + recall) : 0 };
}

/**
 * For each prefix of `a`, starting with the empty one, the lengths of its longest common subsequences with all prefixes of
 * `b`. Yields one row at a time because whole texts may be long.
 */
function* subsequences(a: readonly string[], b: readonly string[]): Generator<Uint32Array> {
  let above = new Uint32Array(b.length + 1);
  yield above;
  for (const word of a) {
    const row = new Uint32Array(b.length + 1);
    for (let j = 1; j <= b.length; j++)
      row[j] = word === b[j - 1] ? above[j - 1] + 1 : Math.max(above[j], row[j - 1]);
    yield row;
    above = row;
  }
}

function commonLength(a: readonly string[], b: readonly string[]): number {
  let length = 0;
  for (const row of subsequences(a, b)) length = row[b.length];
  return length;
}

/** Positions in `a` of a longest common subsequence with `b`, the same one that rouge_score finds. */
function commonPositions(a: readonly string[], b: readonly string[]): number[] {
  const table = [...subsequences(a, b)];
  const found: number[] = [];
  let [i, j] = [a.length, b.length];
  while (i > 0 && j > 0) {
    if (a[i - 1] === b[j - 1]) {
      found.push(i - 1);
      i--;
      j--;
    } else if (table[i][j - 1] > table[i - 1][j]) j--;
    else i--;
  }
  return found;
}

/** Unites, for each target line, its common subsequences with all predicted lines. Words count as often as both texts have them. */
function summaryLevel(targets: readonly string[][], predictions: readonly string[][]): RougeScore {
  const left = [targets, predictions].map((lines) => countNgrams(lines.flat(), 1));
  let hits = 0;
  for (const target of targets) {
    const union = new Set(predictions.flatMap((prediction) => commonPositions(target, prediction)));
    for (const position of [...union].sort((a, b) => a - b)) {
      const word = target[position];
      if (left.some((counts) => (counts.get(word) ?? 0) === 0)) continue;
      for (const counts of left) counts.set(word, counts.get(word)! - 1);
      hits++;
    }
  }
  return scoreOf(hits, targets.flat().length, predictions.flat().length);
}

/**
 * ROUGE-1, -2, -L and -Lsum (Lin 2004) of one prediction as in the package rouge_score, with NLTK's stemmer if `stemmed`.
 * Lsum treats lines as sentences. With several targets, each score is the one with the best F1.
 */
export function rouge(
  prediction: string,
  targets: string | readonly string[],
  { stemmed = false }: { stemmed?: boolean } = {},
): RougeScores {
  const lines = (text: string) =>
    text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => tokens(line, stemmed));
  const predicted = tokens(prediction, stemmed);
  const ngrams = (words: readonly string[], target: readonly string[], n: number) =>
    scoreOf(
      overlap(countNgrams(words, n), countNgrams(target, n)),
      Math.max(0, target.length - n + 1),
      Math.max(0, words.length - n + 1),
    );
  const all = referenceList(targets).map((text): RougeScores => {
    const target = tokens(text, stemmed);
    return {
      rouge1: ngrams(predicted, target, 1),
      rouge2: ngrams(predicted, target, 2),
      rougeL: scoreOf(commonLength(target, predicted), target.length, predicted.length),
      rougeLsum: summaryLevel(lines(text), lines(prediction)),
    };
  });
  const best = (type: RougeType) => all.map((scores) => scores[type]).reduce((a, b) => (b.f1 > a.f1 ? b : a));
  return byType(best);
}

function byType(score: (type: RougeType) => RougeScore): RougeScores {
  return Object.fromEntries(rougeTypes.map((type) => [type, score(type)])) as RougeScores;
}

/** Mean ROUGE over many predictions. Memory does not grow with the data. */
export class Rouge {
  readonly #options: { stemmed?: boolean };
  #sums = byType(() => none);
  #count = 0;

  constructor(options: { stemmed?: boolean } = {}) {
    this.#options = options;
  }

  /** Scores a prediction with `rouge`, adds the scores and returns them. */
  add(prediction: string, targets: string | readonly string[]): RougeScores {
    const scores = rouge(prediction, targets, this.#options);
    const sum = (a: RougeScore, b: RougeScore) => ({
      precision: a.precision + b.precision,
      recall: a.recall + b.recall,
      f1: a.f1 + b.f1,
    });
    this.#sums = byType((type) => sum(this.#sums[type], scores[type]));
    this.#count++;
    return scores;
  }

  /** Mean precision, recall and F1 of each type. 0 if nothing was added. */
  value(): RougeScores {
    const mean = ({ precision, recall, f1 }: RougeScore) => {
      const count = Math.max(this.#count, 1);
      return { precision: precision / count, recall: recall / count, f1: f1 / count };
    };
    return byType((type) => mean(this.#sums[type]));
  }
}
