import { countNgrams, splitWords } from "../../core/statistics/words.ts";
import { Bleu, type BleuOptions } from "./text.ts";

export interface DiversityScore {
  /** Distinct n-grams divided by all n-grams of all texts, for n = 1 and up (Li et al. 2016). */
  distinct: number[];
  /** The fraction of a text's n-grams that are repeats, averaged over texts (seq-rep-n of Welleck et al. 2020). */
  repetition: number[];
}

/**
 * The diversity of generated texts, for word n-grams up to `maxOrder`. Memory grows with the number of distinct n-grams,
 * which distinct-n has to remember.
 */
export class Diversity {
  readonly #seen: Set<string>[];
  readonly #totals: number[];
  readonly #repeated: number[];
  readonly #texts: number[];

  constructor(maxOrder = 4) {
    this.#seen = Array.from({ length: maxOrder }, () => new Set());
    this.#totals = new Array(maxOrder).fill(0);
    this.#repeated = new Array(maxOrder).fill(0);
    this.#texts = new Array(maxOrder).fill(0);
  }

  /** Adds a text. It does not count for orders that it is too short for. */
  add(text: string): void {
    const words = splitWords(text);
    for (const [i, seen] of this.#seen.entries()) {
      const ngrams = countNgrams(words, i + 1);
      const total = words.length - i;
      if (total <= 0) continue;
      for (const ngram of ngrams.keys()) seen.add(ngram);
      this.#totals[i] += total;
      this.#repeated[i] += 1 - ngrams.size / total;
      this.#texts[i]++;
    }
  }

  /** Both measures for n = 1 and up, 0 to 1. NaN where no text is long enough. */
  value(): DiversityScore {
    return {
      distinct: this.#seen.map((seen, i) => seen.size / this.#totals[i]),
      repetition: this.#repeated.map((sum, i) => sum / this.#texts[i]),
    };
  }
}

/**
 * Self-BLEU (Zhu et al. 2018): the mean BLEU of each text against all others, 0 to 100. High values mean little diversity.
 * The cost is quadratic in the number of texts, so give a sample. NaN for fewer than two texts.
 */
export function selfBleu(texts: readonly string[], options: BleuOptions = {}): number {
  if (texts.length < 2) return Number.NaN;
  const scores = texts.map((text, i) => {
    const bleu = new Bleu({ effectiveOrder: true, ...options });
    bleu.add(text, texts.toSpliced(i, 1));
    return bleu.value().score;
  });
  return scores.reduce((sum, score) => sum + score, 0) / texts.length;
}
