import { countTokens, sentenceSpans } from "./chunk.ts";
import type { Found, PassageIndex } from "./search.ts";
import { contentWords, termsOf } from "./terms.ts";

/** A passage as a model is shown it: its number is what an answer cites. */
export interface Source {
  readonly n: number;
  readonly passage: number;
  readonly name: string;
  readonly page: number | undefined;
  readonly text: string;
}

const pronouns =
  /\b(?:it|its|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|one|ones)\b/i;
/** A question with fewer content words than this leans on the one before it. */
const OWN_WORDS = 4;

/** What to search for: the last turn of the user and, where it leans on the one before, that one's content words. */
export function searchQuery(userTurns: readonly string[]): string {
  const last = userTurns.at(-1) ?? "";
  const before = userTurns.at(-2);
  const leans = pronouns.test(last) || contentWords(last).length < OWN_WORDS;
  return before !== undefined && leans ? `${last} ${contentWords(before).join(" ")}` : last;
}

/**
 * The text of a document as data: what reads like a citation, a speaker's name or a template's control sign is taken apart by a
 * zero-width space or brackets of another kind, so that it can neither cite nor speak.
 */
export function neutral(text: string): string {
  return text
    .replace(/<\|/g, "<\u200b|")
    .replace(/\[(\d+)\]/g, "($1)")
    .replace(/^(\s*)(#{3,}|(?:user|human|assistant|system|tool)\s*:)/gim, "$1\u200b$2")
    .replace(/<(\/?)(s|im_start|im_end|think|tool_call)>/gi, "<\u200b$1$2>");
}

/** The sources that fit into `tokens`, best first, each whole. `count` is the model's own measure. */
export function sourcesWithin(
  sources: readonly Source[],
  tokens: number,
  count: (text: string) => number = countTokens,
): Source[] {
  const taken: Source[] = [];
  let left = tokens;
  for (const source of sources) {
    const size = count(lineOf(source));
    if (size > left) continue;
    left -= size;
    taken.push({ ...source, n: taken.length + 1 });
  }
  return taken;
}

const lineOf = ({ n, name, page, text }: Source) =>
  `[${n}] ${neutral(name).replace(/\s+/g, " ")}${page === undefined ? "" : `, page ${page}`}: ${neutral(text)}`;

/** The question with its sources before it, as the user's turn. */
export function promptOf(sources: readonly Source[], question: string): string {
  return [
    'Use only the sources below. Cite them as [1]. If they do not contain the answer, say "I do not know."',
    ...sources.map(lineOf),
    `Question: ${question}`,
  ].join("\n");
}

/** A mark such as ` [2]`, with the space before it. */
const MARK = /[^\S\n]?\[(\d{1,3})\]/g;
/** What may become one when more is said. */
const BEGUN = /(?:[^\S\n]?\[\d{0,3}|[^\S\n])$/;

/** Takes marks that no source has out of an answer while it is written: all pieces together are `checkAnswer`'s text. */
export class CitationFilter {
  readonly #numbers: ReadonlySet<number>;
  #held = "";
  /** Marks that were taken out. */
  invalid = 0;

  constructor(numbers: Iterable<number>) {
    this.#numbers = new Set(numbers);
  }

  /** What can be said of the answer after another piece of it. */
  hear(piece: string): string {
    const text = this.#held + piece;
    let said = "";
    let from = 0;
    for (const { index, 0: mark, 1: digits } of text.matchAll(MARK)) {
      const known = this.#numbers.has(Number(digits));
      if (!known) this.invalid++;
      said += text.slice(from, index) + (known ? mark : "");
      from = index + mark.length;
    }
    const left = text.slice(from);
    const at = left.search(BEGUN);
    this.#held = at < 0 ? "" : left.slice(at);
    return said + (at < 0 ? left : left.slice(0, at));
  }

  /** What was held back, when nothing follows. */
  rest(): string {
    const text = this.#held;
    this.#held = "";
    return text;
  }
}

export interface CheckedAnswer {
  /** Without numbers that no source has. */
  readonly text: string;
  readonly cited: readonly number[];
  readonly invalid: number;
  /** Sentences that cite nothing and share too few words with any source: from and to where they stand in `text`. */
  readonly unsupported: readonly (readonly [start: number, end: number])[];
}

/** The share of a sentence's content words that a source must have for the sentence to come from it. */
const LEAST_OVERLAP = 0.3;

/** Holds an answer against its sources. */
export function checkAnswer(answer: string, sources: readonly Source[]): CheckedAnswer {
  const cited = new Set<number>();
  const filter = new CitationFilter(sources.map(({ n }) => n));
  const text = filter.hear(answer) + filter.rest();
  for (const [, digits] of text.matchAll(MARK)) cited.add(Number(digits));
  const words = sources.map((source) => new Set(termsOf(source.text)));
  const unsupported = sentenceSpans(text).filter(([start, end]) => {
    const sentence = text.slice(start, end);
    if (/\[\d{1,3}\]/.test(sentence)) return false;
    const own = [...new Set(termsOf(sentence))];
    const overlap = (source: Set<string>) => own.filter((term) => source.has(term)).length / own.length;
    return own.length > 0 && !words.some((source) => overlap(source) > LEAST_OVERLAP);
  });
  return { text, cited: [...cited].sort((a, b) => a - b), invalid: filter.invalid, unsupported };
}

/**
 * The answer of a model that cannot read instructions: the best `most` sentences of the best passage by the idf that they share with
 * the question, in the passage's order.
 */
export function quoted(
  index: PassageIndex,
  query: string,
  found: Found,
  most = 2,
): (readonly [start: number, end: number])[] {
  const { text } = index.passages[found.passage];
  const asked = new Set(termsOf(query));
  const scored = sentenceSpans(text).map((span) => {
    const own = new Set(termsOf(text.slice(...span)));
    const score = [...asked].reduce((sum, term) => sum + (own.has(term) ? index.idf(term) : 0), 0);
    return { span, score };
  });
  const chosen = new Set(
    [...scored].sort((a, b) => b.score - a.score || a.span[0] - b.span[0]).slice(0, most),
  );
  return scored.filter((each) => chosen.has(each)).map(({ span }) => span);
}
