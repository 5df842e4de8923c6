import { countNgrams, overlap, referenceList, splitWords } from "./words.ts";

export interface ChrfOptions {
  /** The longest character n-grams. Default 6. */
  charOrder?: number;
  /** The longest word n-grams: 0 (the default) gives chrF, 2 gives chrF++. */
  wordOrder?: number;
  /** How many times more important recall is than precision. Default 2. */
  beta?: number;
  /** Ignores case. Default false. */
  lowercase?: boolean;
}

/**
 * chrF and chrF++ (Popović 2015, 2017) as in sacrebleu 2.6: the F-score, 0 to 100, of n-gram precision and recall averaged
 * over the orders. Of several references, the best one counts. Memory does not grow with the data.
 */
export class Chrf {
  readonly #options: Required<ChrfOptions>;
  readonly #sums: number[];

  constructor(options: ChrfOptions = {}) {
    this.#options = { charOrder: 6, wordOrder: 0, beta: 2, lowercase: false, ...options };
    this.#sums = new Array(3 * (this.#options.charOrder + this.#options.wordOrder)).fill(0);
  }

  /** Adds a segment with one or several references. Throws KilnError if there are none. */
  add(hypothesis: string, references: string | readonly string[]): void {
    for (const [i, value] of this.statistics(hypothesis, references).entries()) this.#sums[i] += value;
  }

  /** The score of all segments so far. */
  value(): number {
    return this.score(this.#sums);
  }

  /** What a segment adds to the sums: for each order, its n-grams, those of the best reference, and the matches. */
  statistics(hypothesis: string, references: string | readonly string[]): number[] {
    const own = this.#ngrams(hypothesis);
    const rows = referenceList(references).map((reference) =>
      this.#ngrams(reference).flatMap((theirs, i) => {
        const count = (ngrams: ReadonlyMap<string, number>) =>
          [...ngrams.values()].reduce((a, b) => a + b, 0);
        // An order does not count if the reference is too short for it.
        return [theirs.size > 0 ? count(own[i]) : 0, count(theirs), overlap(own[i], theirs)];
      }),
    );
    const scores = rows.map((row) => this.score(row));
    return rows[scores.indexOf(Math.max(...scores))];
  }

  /** The score of summed statistics. */
  score(sums: readonly number[]): number {
    const factor = this.#options.beta ** 2;
    let orders = 0;
    let precision = 0;
    let recall = 0;
    for (let i = 0; i < sums.length; i += 3) {
      const [hypothesis, reference, matches] = sums.slice(i, i + 3);
      if (hypothesis === 0 || reference === 0) continue;
      orders++;
      precision += matches / hypothesis;
      recall += matches / reference;
    }
    if (precision + recall === 0) return 0;
    return (100 * ((1 + factor) * precision * recall)) / orders / (factor * precision + recall);
  }

  #ngrams(text: string): Map<string, number>[] {
    const { charOrder, wordOrder, lowercase } = this.#options;
    const words = splitWords(lowercase ? text.toLowerCase() : text);
    const chars = [...words.join("")];
    return [
      ...Array.from({ length: charOrder }, (_, n) => countNgrams(chars, n + 1, "")),
      ...Array.from({ length: wordOrder }, (_, n) => countNgrams(words.flatMap(apart), n + 1)),
    ];
  }
}

/** Separates one punctuation mark from a word, at its end or else at its start. */
function apart(word: string): string[] {
  const mark = /[!-/:-@[-`{-~]/;
  if ([...word].length === 1) return [word];
  if (mark.test(word.at(-1)!)) return [word.slice(0, -1), word.at(-1)!];
  return mark.test(word[0]) ? [word[0], word.slice(1)] : [word];
}
