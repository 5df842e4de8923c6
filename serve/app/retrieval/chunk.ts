/** A piece of a document as its extractor read it. */
export interface Block {
  readonly text: string;
  /** Counted from 1, where the document has pages. */
  readonly page?: number | undefined;
  /** The heading that it stands under. */
  readonly heading?: string | undefined;
  readonly kind: "prose" | "table" | "code";
}

/** A passage that is searched and cited: `text` is the document's from `start` to `end`, in UTF-16 units. */
export interface Chunk {
  readonly ordinal: number;
  readonly text: string;
  readonly start: number;
  readonly end: number;
  readonly page: number | undefined;
  readonly heading: string | undefined;
  readonly tokens: number;
}

/** A chunk is closed at the target, has no more than the maximum, and repeats the last sentences of the one before it. */
const TARGET_TOKENS = 200;
const MOST_TOKENS = 256;
const OVERLAP_TOKENS = 32;

/** From and to where something stands in a text. */
type Span = readonly [start: number, end: number];

const BETWEEN = "\n\n";
const sign = String.raw`[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}]`;
const tokens = new RegExp(
  String.raw`${sign}|(?:(?!${sign})[\p{L}\p{N}\p{M}]){1,16}|[^\s\p{L}\p{N}\p{M}]`,
  "gu",
);

/** Words of at most 16 letters, signs of scripts without spaces, and marks: near what a tokenizer makes of a text, and the same for all. */
export function countTokens(text: string): number {
  let count = 0;
  for (const _ of text.matchAll(tokens)) count++;
  return count;
}

/** A document's whole text: its blocks with an empty line between them. Offsets of chunks point into it. */
export const documentText = (blocks: readonly Block[]): string =>
  blocks.map(({ text }) => text).join(BETWEEN);

/**
 * The passages of a document, in order. None spans two pages or two headings; sentences stay whole unless one alone is over the
 * maximum, and tables are parted between rows, code between blank lines and then lines.
 */
export function chunksOf(blocks: readonly Block[]): Chunk[] {
  const text = documentText(blocks);
  const chunks: Chunk[] = [];
  for (const { units, page, heading } of sections(blocks)) {
    for (const [start, end] of packed(text, units)) {
      const own = text.slice(start, end);
      chunks.push({ ordinal: chunks.length, text: own, start, end, page, heading, tokens: countTokens(own) });
    }
  }
  return chunks;
}

interface Section extends Pick<Block, "page" | "heading"> {
  /** What is not parted. */
  readonly units: Span[];
}

function sections(blocks: readonly Block[]): Section[] {
  const made: Section[] = [];
  let at = 0;
  for (const block of blocks) {
    const units = unitsOf(block).map(([start, end]): Span => [at + start, at + end]);
    const last = made.at(-1);
    const { page, heading } = block;
    if (last && last.page === page && last.heading === heading)
      for (const unit of units) last.units.push(unit);
    else made.push({ page, heading, units });
    at += block.text.length + BETWEEN.length;
  }
  return made;
}

const sentences = new Intl.Segmenter("en", { granularity: "sentence" });

/** The sentences of a text, without the space around them. */
export function sentenceSpans(text: string): Span[] {
  return trimmed(
    text,
    Array.from(sentences.segment(text), ({ segment, index }): Span => [index, index + segment.length]),
  );
}

function unitsOf({ text, kind }: Block): Span[] {
  if (kind === "prose") return sentenceSpans(text).flatMap((span) => fitting(text, span));
  const parts = kind === "code" ? splitAt(text, /\n[^\S\n]*\n\s*/g) : splitAt(text, /\n/g);
  const lines = parts.flatMap((span): Span[] =>
    countTokens(text.slice(...span)) <= MOST_TOKENS
      ? [span]
      : splitAt(text.slice(...span), /\n/g).map(([start, end]): Span => [span[0] + start, span[0] + end]),
  );
  return trimmed(text, lines, kind === "code").flatMap((span) => fitting(text, span));
}

/** What stands between the matches of a pattern. */
function splitAt(text: string, pattern: RegExp): Span[] {
  const spans: Span[] = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    spans.push([from, match.index]);
    from = match.index + match[0].length;
  }
  spans.push([from, text.length]);
  return spans;
}

/** The spans without the space around them (in code only that after them: indentation is part of it), and without empty ones. */
function trimmed(text: string, spans: readonly Span[], keepsIndent = false): Span[] {
  return spans.flatMap(([start, end]): Span[] => {
    const own = text.slice(start, end);
    if (own.trim() === "") return [];
    const lead = keepsIndent ? 0 : own.length - own.trimStart().length;
    return [[start + lead, start + own.trimEnd().length]];
  });
}

/** A span, parted where it is over the maximum. */
function fitting(text: string, [start, end]: Span): Span[] {
  const own = text.slice(start, end);
  const places = Array.from(own.matchAll(tokens), ({ index }) => start + index);
  const spans: Span[] = [];
  for (let i = 0; i < places.length; i += MOST_TOKENS)
    spans.push([i === 0 ? start : places[i], places[i + MOST_TOKENS] ?? end]);
  return spans.map(([from, to]) => [from, from + text.slice(from, to).trimEnd().length]);
}

/** Neighbouring units together up to the target, each with the last units of the one before up to the overlap. */
function packed(text: string, units: readonly Span[]): Span[] {
  const sizes = units.map((span) => countTokens(text.slice(...span)));
  const spans: Span[] = [];
  for (let first = 0, next = 0; next < units.length; ) {
    let size = sizes.slice(first, next).reduce((sum, each) => sum + each, 0);
    // What is repeated gives way to what is new.
    while (first < next && size + sizes[next] > MOST_TOKENS) size -= sizes[first++];
    do size += sizes[next++];
    while (next < units.length && size < TARGET_TOKENS && size + sizes[next] <= MOST_TOKENS);
    spans.push([units[first][0], units[next - 1][1]]);
    let repeated = 0;
    for (first = next; first > 0 && repeated + sizes[first - 1] <= OVERLAP_TOKENS; )
      repeated += sizes[--first];
  }
  return spans;
}
