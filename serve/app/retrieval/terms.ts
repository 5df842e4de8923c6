import { stem } from "../../../tokenizer/text/stem.ts";

/** English words that say nothing of what a text is about. */
const stopWords = new Set(
  (
    "a about above after again against all also am an and any are as at be because been before being below between both but by can " +
    "could did do does doing down during each few for from further had has have having he her here hers herself him himself his how " +
    "i if in into is it its itself just me more most my myself no nor not now of off on once only or other our ours ourselves out " +
    "over own same she should so some such than that the their theirs them themselves then there these they this those through to " +
    "too under until up upon very was we were what when where which while who whom why will with would you your yours yourself"
  ).split(" "),
);

const stems = new Map<string, string>();
/** Words are few and come again and again; a hostile document must not fill the memory with its own. */
const MOST_STEMS = 200_000;

function stemOf(word: string): string {
  const known = stems.get(word);
  if (known !== undefined) return known;
  if (stems.size >= MOST_STEMS) stems.clear();
  const made = stem(word);
  stems.set(word, made);
  return made;
}

const words = /[\p{L}\p{N}\p{M}]+/gu;
/** Scripts that are written without spaces between words. */
const unspaced =
  /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}ー]+$/u;
const pairs = (word: string) => {
  const signs = [...word];
  return signs.length < 3 ? [word] : signs.slice(1).map((sign, i) => signs[i] + sign);
};

/**
 * What a text is searched by: its runs of letters and digits in lower case, without stop words, stemmed by Porter. Where words are
 * written without spaces, each two neighbouring signs are a term.
 */
export function termsOf(text: string): string[] {
  const terms: string[] = [];
  for (const word of text.toLowerCase().match(words) ?? []) {
    if (stopWords.has(word)) continue;
    // Code points up to U+0DFF have spaces between words.
    if (word.charCodeAt(0) > 0x0dff && unspaced.test(word)) for (const pair of pairs(word)) terms.push(pair);
    else terms.push(stemOf(word));
  }
  return terms;
}

/** How many words say what a question is about. */
export const contentWords = (text: string): string[] =>
  (text.toLowerCase().match(words) ?? []).filter((word) => !stopWords.has(word));
