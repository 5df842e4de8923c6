import { KilnError } from "../core/errors.ts";

/** Counts of words, a row a text, without the zeros: the words of row r are at `starts[r]` to `starts[r + 1]`. */
interface Counts {
  starts: Uint32Array;
  words: Uint32Array;
  counts: Float64Array;
}

/** scikit-learn's CountVectorizer: lower case, words of two letters or digits or more. */
const wordsOf = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}_]{2,}/gu) ?? [];

function count(texts: readonly string[], vocabulary: ReadonlyMap<string, number>): Counts {
  const starts = [0];
  const words: number[] = [];
  const counts: number[] = [];
  for (const text of texts) {
    const row = new Map<number, number>();
    for (const word of wordsOf(text)) {
      const id = vocabulary.get(word);
      if (id !== undefined) row.set(id, (row.get(id) ?? 0) + 1);
    }
    words.push(...row.keys());
    counts.push(...row.values());
    starts.push(words.length);
  }
  return {
    starts: Uint32Array.from(starts),
    words: Uint32Array.from(words),
    counts: Float64Array.from(counts),
  };
}

/** What a model must beat to have learned more than which words occur; its errors are those of `fit`. */
export class BagOfWords {
  readonly #vocabulary: ReadonlyMap<string, number>;
  readonly #classes: number;
  /** [words + 1, classes]: the last row is the bias. */
  readonly #weights: Float64Array;

  private constructor(vocabulary: ReadonlyMap<string, number>, classes: number, weights: Float64Array) {
    this.#vocabulary = vocabulary;
    this.#classes = classes;
    this.#weights = weights;
  }

  /**
   * The multinomial logistic regression of word counts that minimises the sum of cross-entropies + |weights|² / 2 (the bias is
   * free), which is scikit-learn's LogisticRegression with C = 1. Nesterov's accelerated descent with restarts (O'Donoghue and
   * Candès 2015), until no derivative is over a hundredth of a text; the time grows with words × classes.
   */
  static fit(texts: readonly string[], labels: ArrayLike<number>, classes: number): BagOfWords {
    if (texts.length === 0) throw new KilnError("a bag of words needs texts to learn from");
    const vocabulary = new Map<string, number>();
    for (const word of texts.flatMap(wordsOf))
      if (!vocabulary.has(word)) vocabulary.set(word, vocabulary.size);
    const counts = count(texts, vocabulary);
    const size = (vocabulary.size + 1) * classes;
    let [weights, ahead] = [new Float64Array(size), new Float64Array(size)];
    const rates = steps(counts, vocabulary.size);
    for (let round = 1, momentum = 1; round <= mostRounds; round++) {
      const slope = gradient(counts, labels, ahead, classes);
      if (slope.every((value) => Math.abs(value) < 1e-2)) break;
      const next = ahead.map((value, i) => value - rates[Math.floor(i / classes)] * slope[i]);
      const isUphill = slope.reduce((sum, value, i) => sum + value * (next[i] - weights[i]), 0) > 0;
      const grown = isUphill ? 1 : (1 + Math.sqrt(1 + 4 * momentum * momentum)) / 2;
      const push = isUphill ? 0 : (momentum - 1) / grown;
      ahead = next.map((value, i) => value + push * (value - weights[i]));
      [weights, momentum] = [next, grown];
    }
    return new BagOfWords(vocabulary, classes, weights);
  }

  /** The probabilities of the classes, for each text. */
  predict(texts: readonly string[]): Float64Array[] {
    const counts = count(texts, this.#vocabulary);
    return texts.map((_, row) => probabilities(counts, row, this.#weights, this.#classes));
  }
}

const mostRounds = 5000;

function probabilities(
  { starts, words, counts }: Counts,
  row: number,
  weights: Float64Array,
  classes: number,
): Float64Array {
  const scores = weights.slice(weights.length - classes);
  for (let i = starts[row]; i < starts[row + 1]; i++)
    for (let c = 0; c < classes; c++) scores[c] += counts[i] * weights[words[i] * classes + c];
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function gradient(data: Counts, labels: ArrayLike<number>, weights: Float64Array, classes: number) {
  const { starts, words, counts } = data;
  const bias = weights.length - classes;
  const slope = weights.map((value, i) => (i < bias ? value : 0));
  for (let row = 0; row + 1 < starts.length; row++) {
    const errors = probabilities(data, row, weights, classes);
    errors[labels[row]] -= 1;
    for (let c = 0; c < classes; c++) slope[bias + c] += errors[c];
    for (let i = starts[row]; i < starts[row + 1]; i++)
      for (let c = 0; c < classes; c++) slope[words[i] * classes + c] += counts[i] * errors[c];
  }
  return slope;
}

/**
 * A step for each weight: 1 / a diagonal that the matrix of second derivatives is nowhere above, (countsᵀ counts) / 2 + 1,
 * whose rows' sums it takes. Rare words so get steps as long as theirs may be, not as long as those of "the".
 */
function steps({ starts, words, counts }: Counts, vocabulary: number): Float64Array {
  const sums = new Float64Array(vocabulary + 1);
  for (let row = 0; row + 1 < starts.length; row++) {
    const [from, to] = [starts[row], starts[row + 1]];
    const total = counts.subarray(from, to).reduce((sum, value) => sum + value, 1);
    for (let i = from; i < to; i++) sums[words[i]] += counts[i] * total;
    sums[vocabulary] += total;
  }
  return sums.map((sum) => 1 / (sum / 2 + 1));
}
