/** A place to cut a long text: what comes before `end` and what comes from `next` on are encoded one after the other. */
export interface Cut {
  end: number;
  /** `end`, or one past a space that the tokenizer puts before every text by itself. */
  next: number;
  /** Whether the ids around the place were found to be those of the whole text. */
  isExact: boolean;
}

/** Ids of several texts, without special tokens around them. */
type EncodeBatch = (texts: string[]) => Promise<number[][]>;

/** Characters on each side of a place that are encoded to try it. */
const CONTEXT = 256;
/** Places tried at white space, then anywhere. */
const TRIES = 64;

/**
 * Where to cut a text of more than `limit` characters so that its ids stay those of the whole. Places are tried from the
 * limit backwards, first single white space inside text, then any: a place is taken where the characters around it have
 * the same ids cut and uncut. Every usual pre-tokenizer starts afresh after white space, so that what holds for the
 * characters around holds for the whole; inside a word it is only likely. A tokenizer that puts a space before every text
 * (the Prepend of Llama 2) is given the right part without its own. Where no place does, the text is cut at the limit.
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

/** The last `TRIES` places in the second half of the part before `limit` that a test accepts. */
function placesBefore(text: string, limit: number, accepts: (text: string, at: number) => boolean): number[] {
  const places: number[] = [];
  for (let at = limit; at > limit / 2 && places.length < TRIES; at--) if (accepts(text, at)) places.push(at);
  return places;
}

const isSpace = (character: string | undefined) => character !== undefined && /\s/.test(character);

function isAtSpace(text: string, at: number): boolean {
  return isSpace(text[at]) && !isSpace(text[at - 1]) && !isSpace(text[at + 1]);
}

/** Whether `at` does not lie inside a surrogate pair. */
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
