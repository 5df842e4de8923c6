/** A place to cut a long text: the parts before `end` and from `next` on are encoded separately. */
export interface Cut {
  end: number;
  /** `end`, or `end + 1` to skip a space that the tokenizer adds to every text anyway. */
  next: number;
  /** Whether a test showed that both parts have the ids of the whole text. */
  isExact: boolean;
}

/** Ids of several texts, without special tokens around them. */
type EncodeBatch = (texts: string[]) => Promise<number[][]>;

/** Characters on each side of a place that are encoded to test it. */
const CONTEXT = 256;
/** How many places are tried at white space, and then anywhere. */
const TRIES = 64;

/**
 * Finds where to cut a text of more than `limit` characters so that its ids stay those of the whole. Tries places backwards
 * from the limit, first single white-space characters inside text, then any place, and takes the first whose surroundings
 * have the same ids cut and uncut. Every common pre-tokenizer starts afresh after white space, so there the test is
 * conclusive; inside a word it only makes equal ids likely. If the tokenizer puts a space before every text (the Prepend of
 * Llama 2), the right part is encoded without its own space. If no place passes, the text is cut at the limit.
 */
export async function findCut(text: string, limit: number, encode: EncodeBatch): Promise<Cut> {
  const tries = [...placesBefore(text, limit, isAtSpace), ...placesBefore(text, limit, isWhole)];
  for (const end of tries) {
    const from = wholeAt(text, end - CONTEXT);
    const to = wholeAt(text, end + CONTEXT);
    const piece = (start: number, stop: number) => text.slice(start, stop);
    const texts = [piece(from, to), piece(from, end), piece(end, to), piece(end + 1, to)];
    const [whole, left, right, rest] = await encode(texts);
    if (isJoined(whole!, left!, right!)) return { end, next: end, isExact: true };
    if (text[end] === " " && isJoined(whole!, left!, rest!)) return { end, next: end + 1, isExact: true };
  }
  const end = wholeAt(text, limit);
  return { end, next: end, isExact: false };
}

/** The last `TRIES` places between `limit / 2` and `limit` that a test accepts, nearest to the limit first. */
function placesBefore(text: string, limit: number, accepts: (text: string, at: number) => boolean): number[] {
  const places: number[] = [];
  for (let at = limit; at > limit / 2 && places.length < TRIES; at--) if (accepts(text, at)) places.push(at);
  return places;
}

const isSpace = (character: string | undefined) => character !== undefined && /\s/.test(character);

function isAtSpace(text: string, at: number): boolean {
  return isSpace(text[at]) && !isSpace(text[at - 1]) && !isSpace(text[at + 1]);
}

/** Whether `at` is not inside a surrogate pair. */
function isWhole(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  return !(code >= 0xdc00 && code < 0xe000);
}

function wholeAt(text: string, at: number): number {
  const place = Math.min(Math.max(at, 0), text.length);
  return isWhole(text, place) ? place : place - 1;
}

function isJoined(whole: readonly number[], left: readonly number[], right: readonly number[]): boolean {
  return (
    whole.length === left.length + right.length &&
    whole.every((id, i) => id === (i < left.length ? left[i] : right[i - left.length]))
  );
}
