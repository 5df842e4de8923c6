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
   * free), which is scikit-learn's LogisticRegression with C = 1, until no derivative is over a hundredth of a text.
   */
  static fit(texts: readonly string[], labels: ArrayLike<number>, classes: number): BagOfWords {
    if (texts.length === 0) throw new KilnError("a bag of words needs texts to learn from");
    const vocabulary = new Map<string, number>();
    for (const word of texts.flatMap(wordsOf))
      if (!vocabulary.has(word)) vocabulary.set(word, vocabulary.size);
    const counts = count(texts, vocabulary);
    const weights = minimum((vocabulary.size + 1) * classes, 1e-2, (x, slope) =>
      lossAt(counts, labels, x, classes, slope),
    );
    return new BagOfWords(vocabulary, classes, weights);
  }

  /** The probabilities of the classes, for each text. */
  predict(texts: readonly string[]): Float64Array[] {
    const counts = count(texts, this.#vocabulary);
    return texts.map((_, row) => {
      const p = new Float64Array(this.#classes);
      classify(counts, row, this.#weights, p);
      return p;
    });
  }
}

/** Into `p` the probabilities of the classes for a row. */
function classify({ starts, words, counts }: Counts, row: number, weights: Float64Array, p: Float64Array) {
  const classes = p.length;
  p.set(weights.subarray(weights.length - classes));
  for (let i = starts[row]; i < starts[row + 1]; i++)
    for (let c = 0, at = words[i] * classes; c < classes; c++) p[c] += counts[i] * weights[at + c];
  let [most, sum] = [Number.NEGATIVE_INFINITY, 0];
  for (let c = 0; c < classes; c++) most = Math.max(most, p[c]);
  for (let c = 0; c < classes; c++) sum += p[c] = Math.exp(p[c] - most);
  for (let c = 0; c < classes; c++) p[c] /= sum;
}

/** The regularised loss of `weights`; puts its derivatives into `slope`. */
function lossAt(
  data: Counts,
  labels: ArrayLike<number>,
  weights: Float64Array,
  classes: number,
  slope: Float64Array,
): number {
  const { starts, words, counts } = data;
  const bias = weights.length - classes;
  slope.set(weights);
  slope.fill(0, bias);
  let loss = dot(slope, slope) / 2;
  const errors = new Float64Array(classes);
  for (let row = 0; row + 1 < starts.length; row++) {
    classify(data, row, weights, errors);
    loss -= Math.log(Math.max(errors[labels[row]], Number.MIN_VALUE));
    errors[labels[row]] -= 1;
    for (let c = 0; c < classes; c++) slope[bias + c] += errors[c];
    for (let i = starts[row]; i < starts[row + 1]; i++)
      for (let c = 0, at = words[i] * classes; c < classes; c++) slope[at + c] += counts[i] * errors[c];
  }
  return loss;
}

/**
 * Where a convex function of `size` numbers is least: L-BFGS (Liu and Nocedal 1989) from zeros, until no derivative is over
 * `tolerance`. `valueAt` puts the derivatives at a point into its second argument.
 */
function minimum(
  size: number,
  tolerance: number,
  valueAt: (x: Float64Array, slope: Float64Array) => number,
): Float64Array {
  let [x, slope] = [new Float64Array(size), new Float64Array(size)];
  let value = valueAt(x, slope);
  /** The last steps, newest first, with the changes of the derivatives over them. */
  const steps: { s: Float64Array; y: Float64Array; rho: number }[] = [];
  while (slope.some((each) => Math.abs(each) > tolerance)) {
    const direction = slope.map((each) => -each);
    const shares = steps.map(({ s, y, rho }) => {
      const share = rho * dot(s, direction);
      addScaled(direction, -share, y);
      return share;
    });
    const scale = steps.length > 0 ? 1 / (steps[0].rho * dot(steps[0].y, steps[0].y)) : 1 / norm(slope);
    for (let i = 0; i < size; i++) direction[i] *= scale;
    for (const [i, { s, y, rho }] of [...steps.entries()].reverse())
      addScaled(direction, shares[i] - rho * dot(y, direction), s);
    const descent = dot(slope, direction);
    const next = { x: new Float64Array(size), slope: new Float64Array(size), value: 0 };
    for (let length = 1; ; length /= 2) {
      if (length < 1e-10) return x; // The function's own rounding is all that is left.
      next.x.set(x);
      addScaled(next.x, length, direction);
      next.value = valueAt(next.x, next.slope);
      if (next.value <= value + 1e-4 * length * descent) break;
    }
    const s = next.x.map((each, i) => each - x[i]);
    const y = next.slope.map((each, i) => each - slope[i]);
    steps.unshift({ s, y, rho: 1 / dot(s, y) });
    steps.splice(10);
    ({ x, slope, value } = next);
  }
  return x;
}

const norm = (x: Float64Array) => Math.sqrt(dot(x, x));

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function addScaled(to: Float64Array, factor: number, from: Float64Array): void {
  for (let i = 0; i < to.length; i++) to[i] += factor * from[i];
}
