import { KilnError } from "../../core/errors.ts";
import { countNgrams, overlap, referenceList, splitWords, trimEnd } from "../../core/statistics/words.ts";

export { Chrf, type ChrfOptions } from "../../core/statistics/chrf.ts";

/** Tokenizers of a line, named as in sacrebleu. */
const tokenizers = {
  /** mteval-v13a, the default of WMT: separates punctuation, but not within numbers. */
  "13a": (line: string) => {
    const joined = line.replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
    const unescaped = joined
      .replaceAll("&quot;", '"')
      .replaceAll("&amp;", "&")
      .replaceAll("&lt;", "<")
      .replaceAll("&gt;", ">");
    return ` ${unescaped} `
      .replace(/([{-~[-` -&(-+:-@/])/g, " $1 ")
      .replace(/([^0-9])([.,])/gu, "$1 $2 ")
      .replace(/([.,])([^0-9])/gu, " $1 $2")
      .replace(/([0-9])(-)/g, "$1 $2 ");
  },
  /** Splits at white space only. */
  none: (line: string) => line,
  /** mteval-v14: separates Unicode punctuation, except between digits, and all symbols. */
  intl: (line: string) =>
    line
      .replace(/(\P{N})(\p{P})/gu, "$1 $2 ")
      .replace(/(\p{P})(\P{N})/gu, " $1 $2")
      .replace(/(\p{S})/gu, " $1 "),
  /** Makes every character a token. */
  char: (line: string) => [...line].join(" "),
};

/** Smoothing of n-gram orders without a match (Chen and Cherry 2014), named as in sacrebleu, with default values. */
const smoothings = { none: 0, floor: 0.1, "add-k": 1, exp: 0 };

export interface BleuOptions {
  /** Default "13a". */
  tokenize?: keyof typeof tokenizers;
  /** Default "exp". */
  smooth?: keyof typeof smoothings;
  /** The value of `floor` (default 0.1) and of `add-k` (default 1). */
  smoothValue?: number;
  /** The longest n-grams. Default 4. */
  maxOrder?: number;
  /** Leaves out orders for which the text is too short. Meant for single sentences. Default false. */
  effectiveOrder?: boolean;
  /** Ignores case. Default false. */
  lowercase?: boolean;
}

export interface BleuScore {
  /** 0 to 100. */
  score: number;
  /** Percentage of matching n-grams, from single tokens up. */
  precisions: number[];
  brevityPenalty: number;
  hypothesisLength: number;
  referenceLength: number;
}

/**
 * Corpus BLEU (Papineni et al. 2002) as in sacrebleu 2.6 (Post 2018): clipped n-gram counts are summed over all segments,
 * and the brevity penalty uses the reference length closest to each hypothesis. Memory does not grow with the data.
 */
export class Bleu {
  readonly #options: Required<BleuOptions>;
  readonly #sums: number[];

  constructor(options: BleuOptions = {}) {
    const smooth = options.smooth ?? "exp";
    this.#options = {
      tokenize: "13a",
      smooth,
      smoothValue: smoothings[smooth],
      maxOrder: 4,
      effectiveOrder: false,
      lowercase: false,
      ...options,
    };
    const { maxOrder, tokenize } = this.#options;
    if (
      !(tokenize in tokenizers) ||
      !(smooth in smoothings) ||
      !(Number.isInteger(maxOrder) && maxOrder > 0)
    ) {
      throw new KilnError(
        `BLEU has no tokenizer ${tokenize}, smoothing ${smooth} or order ${maxOrder}; tokenizers: ${Object.keys(tokenizers).join(", ")}; smoothings: ${Object.keys(smoothings).join(", ")}`,
      );
    }
    this.#sums = new Array(2 + 2 * maxOrder).fill(0);
  }

  /** Adds a segment with one or several references. Throws KilnError if there are none. */
  add(hypothesis: string, references: string | readonly string[]): void {
    const row = this.statistics(hypothesis, references);
    for (const [i, value] of row.entries()) this.#sums[i] += value;
  }

  /** The score of all segments so far. */
  value(): BleuScore {
    return this.score(this.#sums);
  }

  /**
   * What a segment adds to the sums: its length, the closest reference length, and the numbers of matching and of all
   * n-grams of every order. A bootstrap resamples rows of these.
   */
  statistics(hypothesis: string, references: string | readonly string[]): number[] {
    const tokens = this.#tokens(hypothesis);
    const others = referenceList(references).map((reference) => this.#tokens(reference));
    const distance = (length: number) => Math.abs(length - tokens.length);
    const [closest] = others.map(({ length }) => length).sort((a, b) => distance(a) - distance(b) || a - b);
    const correct: number[] = [];
    const total: number[] = [];
    for (let n = 1; n <= this.#options.maxOrder; n++) {
      const most = new Map<string, number>();
      for (const other of others)
        for (const [ngram, count] of countNgrams(other, n))
          most.set(ngram, Math.max(count, most.get(ngram) ?? 0));
      correct.push(overlap(countNgrams(tokens, n), most));
      total.push(Math.max(0, tokens.length - n + 1));
    }
    return [tokens.length, closest, ...correct, ...total];
  }

  /** The score of summed statistics. */
  score(sums: readonly number[]): BleuScore {
    const { maxOrder, smooth, smoothValue, effectiveOrder } = this.#options;
    const [hypothesisLength, referenceLength] = sums;
    const isShort = hypothesisLength < referenceLength;
    const penalty = hypothesisLength > 0 ? Math.exp(1 - referenceLength / hypothesisLength) : 0;
    const brevityPenalty = isShort ? penalty : 1;
    const precisions: number[] = new Array(maxOrder).fill(0);
    const result = { score: 0, precisions, brevityPenalty, hypothesisLength, referenceLength };
    const correct = sums.slice(2, 2 + maxOrder);
    if (!correct.some((count) => count > 0)) return result;
    let order = maxOrder;
    let missing = 1;
    for (let n = 0; n < maxOrder; n++) {
      const extra = smooth === "add-k" && n > 0 ? smoothValue : 0;
      const matches = correct[n] + extra;
      const total = sums[2 + maxOrder + n] + extra;
      if (total === 0) break;
      if (effectiveOrder) order = n + 1;
      if (matches > 0) precisions[n] = (100 * matches) / total;
      else if (smooth === "floor") precisions[n] = (100 * smoothValue) / total;
      else if (smooth === "exp") {
        missing *= 2;
        precisions[n] = 100 / (missing * total);
      }
    }
    const logs = precisions.slice(0, order).reduce((sum, precision) => sum + Math.log(precision), 0);
    return { ...result, score: brevityPenalty * Math.exp(logs / order) };
  }

  #tokens(text: string): string[] {
    const line = this.#options.lowercase ? text.toLowerCase() : text;
    return splitWords(tokenizers[this.#options.tokenize](trimEnd(line)));
  }
}
