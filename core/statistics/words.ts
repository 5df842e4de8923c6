import { KilnError } from "../errors.ts";

/** White space as in Python's `str.split` and `re`. JavaScript's `\s` differs in a few control characters and U+FEFF. */
const space = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const whiteSpace = new RegExp(`[${space}]+`);

/** The words of a text between white space. */
export function splitWords(text: string): string[] {
  return text.split(whiteSpace).filter((word) => word !== "");
}

/** The text without trailing white space. */
export function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && whiteSpace.test(text[end - 1])) end--;
  return text.slice(0, end);
}

const encoder = new TextEncoder();

/** The number of UTF-8 bytes of a text. */
export function byteLength(text: string): number {
  return encoder.encode(text).length;
}

/** Words and UTF-8 bytes of a text that comes in parts. Words are counted by splitting at white space, as lm-eval does. */
export class TextSize {
  bytes = 0;
  words = 1;
  #endsInSpace = false;

  /** Adds a part; none ends inside a character. */
  add(part: string): this {
    if (part === "") return this;
    this.bytes += byteLength(part);
    // A run of white space that goes on from the part before has been counted there.
    const continues = this.#endsInSpace && whiteSpace.test(part[0]) ? 1 : 0;
    this.words += part.split(whiteSpace).length - 1 - continues;
    this.#endsInSpace = whiteSpace.test(part.at(-1)!);
    return this;
  }
}

/** Counts every n-gram of the items, joined by `separator`. */
export function countNgrams(items: readonly string[], n: number, separator = " "): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= items.length; i++) {
    const ngram = items.slice(i, i + n).join(separator);
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}

/** The number of n-grams that two texts share, each counted as often as it occurs in both. */
export function overlap(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let shared = 0;
  for (const [ngram, count] of a) shared += Math.min(count, b.get(ngram) ?? 0);
  return shared;
}

/** One or several references as a list. Throws KilnError if there are none. */
export function referenceList(references: string | readonly string[]): readonly string[] {
  const list = typeof references === "string" ? [references] : references;
  if (list.length > 0) return list;
  throw new KilnError("a text has no reference to compare it with; give at least one");
}
