import { wordsOf } from "./normalise.ts";

/** Measures of a text by which low quality is told, from 0 to 1. */

/** Text without fenced blocks and inline code. */
const withoutCode = (text: string) => text.replace(/```[\s\S]*?(?:```|$)|`[^`\n]+`/g, "");

/** The number of different words over that of all; null below 20 words, where it says little. */
export function distinctWords(text: string): number | null {
  const words = wordsOf(text);
  return words.length < 20 ? null : new Set(words).size / words.length;
}

/**
 * How repetitive a text is, as Gopher measures it (Rae et al. 2021, table A1): `duplicated` is the share of characters of words
 * that are in a run of five words which occurs more than once, each character counted once; `top` is the share of characters in
 * the most frequent run of two words, where that occurs more than once.
 */
export function repetition(text: string): { duplicated: number; top: number } {
  const words = wordsOf(text);
  const characters = words.reduce((sum, word) => sum + word.length, 0);
  if (characters === 0) return { duplicated: 0, top: 0 };
  const count = (n: number) => {
    const counts = new Map<string, number>();
    for (let i = 0; i + n <= words.length; i++) {
      const run = words.slice(i, i + n).join(" ");
      counts.set(run, (counts.get(run) ?? 0) + 1);
    }
    return counts;
  };
  const fives = words.length < 6 ? new Map<string, number>() : count(5);
  const inside = new Uint8Array(words.length);
  for (let i = 0; i + 5 <= words.length; i++)
    if ((fives.get(words.slice(i, i + 5).join(" ")) ?? 0) > 1) inside.fill(1, i, i + 5);
  let top = 0;
  for (const [run, times] of count(2)) if (times > 1) top = Math.max(top, times * (run.length - 1));
  const duplicated = words.reduce((sum, word, i) => sum + inside[i] * word.length, 0);
  return { duplicated: duplicated / characters, top: Math.min(1, top / characters) };
}

/** The share of characters outside of code that are neither letters, digits nor white space. */
export function symbolShare(text: string): number {
  const prose = [...withoutCode(text)];
  return prose.length === 0
    ? 0
    : prose.filter((char) => !/[\p{L}\p{M}\p{N}\s]/u.test(char)).length / prose.length;
}

const refusals = [
  /^(?:i(?:'|’)?m|i am) (?:very |really )?sorry,? (?:but )?(?:i|as)\b.{0,40}(?:can(?:no|')t|cannot|unable|not able|can’t|ai\b)/i,
  /^(?:i (?:can(?:no|')t|cannot|can’t) (?:assist|help|comply|fulfil|provide|do)|i(?:'|’)?m (?:unable|not able) to)\b/i,
  /\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b/i,
];

/** Whether an answer is one of the usual refusals of assistants. */
export const isRefusal = (answer: string) => refusals.some((pattern) => pattern.test(answer.trim()));

/** Whether an answer says what was asked, and nothing else. */
export function isEcho(asked: string, answer: string): boolean {
  const said = wordsOf(answer).join(" ");
  return said !== "" && said === wordsOf(asked).join(" ");
}
