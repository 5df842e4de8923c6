import { hash32 } from "./permutation.ts";
import type { TextPart } from "./readers.ts";

/** Length of a block, in characters: a block is in the sample as a whole or not at all. */
const BLOCK = 2 ** 14;

/**
 * A sample of at most `budget` characters spread evenly over a corpus, or the whole of a shorter corpus. It consists of the
 * blocks whose numbers have the smallest hashes, so it depends on the corpus alone and favours no part of it. Memory: the
 * sample.
 */
export async function spreadSample(documents: AsyncIterable<TextPart>, budget: number): Promise<string[]> {
  let kept: { key: number; text: string }[] = [];
  let characters = 0;
  let limit = 2 ** 32;
  let number = 0;
  for await (const part of documents) {
    for (const text of blocksOf(part.text)) {
      const key = hash32(number++);
      if (key >= limit) continue;
      // A copy: a slice would keep all of what it was cut from in memory.
      kept.push({ key, text: text.length < part.text.length ? Buffer.from(text).toString() : text });
      characters += text.length;
      while (characters > budget) {
        limit *= 0.9;
        kept = kept.filter(({ key: k }) => k < limit);
        characters = kept.reduce((sum, block) => sum + block.text.length, 0);
      }
    }
  }
  return kept.map(({ text }) => text);
}

/** Cuts a text into blocks, each before the first space after `BLOCK` characters, or right there if no space is near. */
function* blocksOf(text: string): Generator<string> {
  let start = 0;
  while (text.length - start > 2 * BLOCK) {
    const space = text.indexOf(" ", start + BLOCK);
    let end = space < 0 || space > start + 2 * BLOCK ? start + BLOCK : space;
    if ((text.charCodeAt(end) & 0xfc00) === 0xdc00) end++;
    yield text.slice(start, end);
    start = end;
  }
  yield text.slice(start);
}
