import { KilnError } from "../../core/errors.ts";
import { hash32, permutation } from "./permutation.ts";
import type { Span } from "./shards.ts";

/** A document needs a token and a next one: with fewer there is nothing to learn or to measure. */
const LEAST = 2;

/**
 * Holds out a share of the tokens for validation. A document longer than the whole held-out part is cut: its last `fraction`
 * of tokens is held out. Of the shorter ones, whole documents are held out, in the order of a hash of (seed, number of the
 * document), until the share is met to within half a document. Both sides get at least two tokens in a row. Errors: a
 * fraction outside [0, 1), a corpus too small to be split.
 */
export function splitDocuments(
  documents: readonly Span[],
  options: { fraction: number; seed: number },
): { train: Span[]; validation: Span[] } {
  const { fraction, seed } = options;
  if (!(fraction >= 0 && fraction < 1)) {
    throw new KilnError(`the validation fraction ${fraction} must be at least 0 and below 1`);
  }
  if (fraction === 0) return { train: [...documents], validation: [] };
  const target = fraction * countTokens(documents);
  const isLong = (span: Span) => span.length > target;
  const long = documents.filter(isLong);
  let held = long.reduce((sum, span) => sum + tailOf(span, fraction), 0);
  const keys = documents.map((_, i) => hash32(seed, i));
  const short = documents.flatMap((span, i) => (isLong(span) ? [] : [i])).sort((a, b) => keys[a] - keys[b]);
  const whole = new Set<number>();
  const most = documents.length - 1;
  for (const i of short) {
    if (whole.size === most || held + documents[i].length / 2 > target) break;
    whole.add(i);
    held += documents[i].length;
  }
  const sides = documents.map((span, i) =>
    whole.has(i) ? [null, span] : isLong(span) ? cut(span, tailOf(span, fraction)) : [span, null],
  );
  const side = (which: 0 | 1) => sides.flatMap((pair) => pair[which] ?? []);
  const [train, validation] = [side(0), side(1)];
  const isUsable = (spans: readonly Span[]) => spans.some((span) => span.length >= LEAST);
  return isUsable(train) && isUsable(validation) ? { train, validation } : holdOutLittle(documents);
}

/** The number of tokens in some documents. */
export function countTokens(spans: readonly Span[]): number {
  return spans.reduce((sum, span) => sum + span.length, 0);
}

/** How many of a long document's last tokens are held out. */
function tailOf(span: Span, fraction: number): number {
  const length = Math.min(Math.round(span.length * fraction), span.length - LEAST);
  return length >= LEAST ? length : 0;
}

/** For a corpus so small that one side would get nothing: holds out the end of the longest document. */
function holdOutLittle(documents: readonly Span[]): { train: Span[]; validation: Span[] } {
  const longest = documents.reduce((best, span) => (span.length > best.length ? span : best));
  if (longest.length < 2 * LEAST) {
    throw new KilnError(
      `the corpus is too small to hold out a part: its longest document has ${longest.length} tokens; set data.validation_fraction to 0, or name validation data`,
    );
  }
  const [train, validation] = cut(longest, LEAST);
  return {
    train: documents.flatMap((span) => (span === longest ? (train ?? []) : span)),
    validation: [validation!],
  };
}

/** Cuts a document before its last `tail` tokens; the second part is null if there are none. */
function cut(span: Span, tail: number): [Span | null, Span | null] {
  if (tail === 0) return [span, null];
  const length = span.length - tail;
  const bytes = Math.round((span.bytes * length) / span.length);
  return [
    { start: span.start, length, bytes },
    { start: span.start + length, length: tail, bytes: span.bytes - bytes },
  ];
}

/** What a recipe says of examples that it holds in memory: their files, and which of them are held out. */
interface SplitSettings {
  path: string[];
  validation_path?: string[] | undefined;
  validation_fraction: number;
  seed: number;
}

/**
 * Reads examples, and holds a share of them out, drawn by the seed, or those of other files. `content` decides the numbers of a
 * run: the hashes of what was read, and the settings besides the paths.
 */
export async function splitExamples<E, S extends SplitSettings>(
  { path, validation_path, ...reading }: S,
  read: (files: readonly string[]) => Promise<{ examples: E[]; hash: string }>,
) {
  const all = await read(path);
  const other = validation_path && (await read(validation_path));
  const order = Array.from(permutation(all.examples.length, reading.seed, 3), (i) => all.examples[i]);
  const count = other ? 0 : Math.floor(order.length * reading.validation_fraction);
  return {
    training: order.slice(count),
    held: other?.examples ?? order.slice(0, count),
    content: { content: all.hash, validation: other?.hash, ...reading },
  };
}
