import { KilnError } from "../../../core/errors.ts";
import { quantile } from "../../../core/statistics/quantile.ts";
import { charTokenizer, Tokenizer, trainBpe } from "../../../tokenizer/index.ts";

/** Texts that are longer than a model reads. */
export interface TruncationReport {
  over: number;
  /** Tokens that would be cut off. */
  lost_tokens: number;
  p50: number;
  p95: number;
  max: number;
}

/** Counts of the tokens of texts, with any tokenizer. */
export class TokenizerUtils {
  readonly tokenizer: Tokenizer;

  constructor(tokenizer: Tokenizer) {
    this.tokenizer = tokenizer;
  }

  /** The tokenizer of a model folder, or a `tokenizer.json`: BPE, WordPiece or any other that it holds. Throws as `Tokenizer.load`. */
  static load(path: string): TokenizerUtils {
    return new TokenizerUtils(Tokenizer.load(path));
  }

  /** A token a character of these texts. */
  static char(texts: Iterable<string>): TokenizerUtils {
    return new TokenizerUtils(
      new Tokenizer(charTokenizer([...texts].join(""), { special_tokens: [], bos_token: null })),
    );
  }

  /** A token a byte. */
  static byte(): TokenizerUtils {
    return TokenizerUtils.bpe(["a"], 256);
  }

  /** A byte-level BPE that is trained on texts. */
  static bpe(texts: Iterable<string>, vocabSize: number): TokenizerUtils {
    return new TokenizerUtils(new Tokenizer(trainBpe(texts, { vocab_size: vocabSize, special_tokens: [] })));
  }

  /** Tokens of each text. */
  async counts(texts: readonly string[]): Promise<number[]> {
    const counts: number[] = [];
    for (const text of texts) counts.push((await this.tokenizer.encode(text)).length);
    return counts;
  }

  /** How many texts have from `from` up to, not including, `from + width` tokens; empty ranges are left out. */
  async histogram(texts: readonly string[], width = 64): Promise<{ from: number; count: number }[]> {
    if (!(Number.isInteger(width) && width > 0))
      throw new KilnError(`the width ${width} should be a whole number over 0`);
    const bins = new Map<number, number>();
    for (const count of await this.counts(texts)) {
      const from = Math.floor(count / width) * width;
      bins.set(from, (bins.get(from) ?? 0) + 1);
    }
    return [...bins].sort(([a], [b]) => a - b).map(([from, count]) => ({ from, count }));
  }

  /** What a model that reads `context` tokens would lose. */
  async truncation(texts: readonly string[], context: number): Promise<TruncationReport> {
    return truncationOf(await this.counts(texts), context);
  }
}

export function truncationOf(counts: readonly number[], context: number): TruncationReport {
  const over = counts.filter((count) => count > context);
  const sorted = [...counts].sort((a, b) => a - b);
  return {
    over: over.length,
    lost_tokens: over.reduce((sum, count) => sum + count - context, 0),
    p50: quantile(sorted, 0.5),
    p95: quantile(sorted, 0.95),
    max: sorted.at(-1) ?? 0,
  };
}
