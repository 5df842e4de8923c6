import { fromByteAlphabet } from "./byte_alphabet.ts";
import { type ComponentJson, componentList } from "./tokenizer_json.ts";

/**
 * One stage of a decoder that is fed piece by piece: one piece per token, until a stage fuses them. `push` returns the pieces
 * that are now certain, `flush` those that would follow if the text ended here. States are never changed in place, so a
 * decoder can be copied in the middle of a text.
 */
export interface DecoderStage<State = unknown> {
  readonly initial: State;
  push(state: State, piece: string): readonly [state: State, pieces: readonly string[]];
  flush(state: State): readonly string[];
}

/** Runs a decoder of the library over the pieces of a whole text. */
export type WholeDecoder = (pieces: string[]) => string;

/**
 * The stages of a `tokenizer.json` decoder in a form that never looks back at earlier text, so a token costs the same at the
 * end of a long answer as at its start. Returns null for a decoder that treats fused text as one token (a regular expression
 * over it, byte tokens after `Fuse`): it cannot be fed token by token, and the caller decodes everything at once. The joined
 * output of every stage equals that of Hugging Face's decoder of the same type for the whole list, with one exception: a
 * complete character of byte tokens is kept when an invalid byte follows it.
 * @param library makes the library's decoder of one stage.
 */
export function decoderStages(
  decoder: ComponentJson | null,
  library: (part: ComponentJson) => WholeDecoder,
): DecoderStage[] | null {
  if (decoder === null) return [joinWithSpaces()];
  const stages: DecoderStage[] = [];
  let fused = false;
  const parts = componentList(decoder);
  for (const [i, part] of parts.entries()) {
    // If the next stage works on whole tokens, a token must not arrive in two pieces.
    const mayCut = parts[i + 1] === undefined || parts[i + 1].type === "Fuse";
    const found = fused ? fusedStages(part) : tokenStages(part, mayCut, library);
    if (found === null) return null;
    stages.push(...found);
    fused ||= part.type === "Fuse" || part.type === "ByteLevel";
  }
  return stages;
}

/** A stage before anything is fused: each piece is one token. */
function tokenStages(
  part: ComponentJson,
  mayCut: boolean,
  library: (part: ComponentJson) => WholeDecoder,
): DecoderStage[] | null {
  switch (part.type) {
    case "Fuse":
      return [];
    case "Strip": {
      const { content, start, stop } = stripSettings(part);
      return [perToken((piece) => stripEnd(stripStart(piece, content, start), content, stop))];
    }
    case "ByteLevel":
      return [byteLevel()];
    case "ByteFallback":
      return mayCut ? [byteFallback()] : null;
    case "BPEDecoder":
      return mayCut && part.suffix !== "" ? [wordSuffix(String(part.suffix ?? "</w>"))] : null;
    case "Replace": {
      const pattern = literalPattern(part);
      if (pattern !== null) return [perToken((piece) => piece.replaceAll(pattern, () => `${part.content}`))];
      const decode = library(part);
      return [perToken((piece) => decode([piece]))];
    }
    case "Metaspace":
      return [metaspace(String(part.replacement ?? "▁"), part.prepend_scheme !== "never")];
    case "WordPiece":
      return [wordPiece(String(part.prefix ?? "##"), part.cleanup !== false)];
    case "CTC":
      return [ctc(part)];
    default:
      return null;
  }
}

/** A stage on text that an earlier stage fused into one piece. */
function fusedStages(part: ComponentJson): DecoderStage[] | null {
  if (part.type === "Fuse") return [];
  if (part.type === "Strip") {
    const { content, start, stop } = stripSettings(part);
    return [stripFused(content, start), stripFusedEnd(content, stop)];
  }
  const pattern = part.type === "Replace" ? literalPattern(part) : null;
  return pattern ? [replaceFused(pattern, String(part.content))] : null;
}

/** The bytes that a token stands for wherever it occurs: only stages that look at a single token apply. */
export function tokenBytes(decoder: ComponentJson | null, token: string): Uint8Array {
  let text = token;
  for (const part of componentList(decoder)) {
    if (part.type === "ByteLevel") return fromByteAlphabet(text);
    const byte = part.type === "ByteFallback" ? byteFallbackByte(text) : null;
    if (byte !== null) return Uint8Array.of(byte);
    const pattern = part.type === "Replace" ? literalPattern(part) : null;
    if (pattern) text = text.replaceAll(pattern, () => `${part.content}`);
    if (part.type === "Metaspace") text = text.replaceAll(String(part.replacement ?? "▁"), " ");
    if (part.type === "BPEDecoder") text = text.replaceAll(String(part.suffix ?? "</w>"), " ");
    if (part.type === "CTC") text = ctcText(part, text);
    const prefix = String(part.prefix ?? "##");
    if (part.type === "WordPiece" && text.startsWith(prefix)) text = text.slice(prefix.length);
  }
  return new TextEncoder().encode(text);
}

function literalPattern(part: ComponentJson): string | null {
  return (part.pattern as { String?: string } | undefined)?.String ?? null;
}

function perToken(change: (piece: string, index: number) => string): DecoderStage<number> {
  return { initial: 0, push: (index, piece) => [index + 1, [change(piece, index)]], flush: () => [] };
}

/** No decoder at all: tokens are joined by single spaces. */
function joinWithSpaces(): DecoderStage<number> {
  return perToken((piece, index) => (index === 0 ? piece : ` ${piece}`));
}

/** Bytes to text: an unfinished character waits for its rest, an invalid one becomes U+FFFD. */
function byteLevel(): DecoderStage<Uint8Array> {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    initial: new Uint8Array(0),
    push(held, piece) {
      const bytes = concatBytes(held, fromByteAlphabet(piece));
      const end = bytes.length - unfinishedBytes(bytes);
      return [bytes.subarray(end), [utf8.decode(bytes.subarray(0, end))]];
    },
    flush: (held) => [utf8.decode(held)],
  };
}

function concatBytes(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}

/** How many bytes at the end begin a character that more bytes could complete (Unicode 16, table 3-7). */
function unfinishedBytes(bytes: Uint8Array): number {
  for (let count = 1; count <= Math.min(3, bytes.length); count++) {
    const lead = bytes[bytes.length - count];
    if (lead >= 0x80 && lead < 0xc0) continue;
    const needed = lead < 0xc2 || lead > 0xf4 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (needed <= count) return 0;
    const second = bytes[bytes.length - count + 1];
    if (second === undefined) return count;
    const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high ? count : 0;
  }
  return 0;
}

/** The byte of a SentencePiece byte token such as `<0x0A>`, or null. */
function byteFallbackByte(token: string): number | null {
  const match = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  return match === null ? null : Number.parseInt(match[1], 16);
}

/**
 * SentencePiece byte tokens: a character is shown as soon as its last byte arrives, and a byte that is not part of a
 * character becomes U+FFFD. The library decodes a run of byte tokens as a whole and replaces all of it for one invalid byte;
 * to do the same here, a run would have to be held back until it ends.
 */
function byteFallback(): DecoderStage<Uint8Array> {
  const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
  const lost = (bytes: Uint8Array) => Array.from(bytes, () => "\uFFFD");
  return {
    initial: new Uint8Array(0),
    push(held, piece) {
      const byte = byteFallbackByte(piece);
      if (byte === null) return [new Uint8Array(0), [...lost(held), piece]];
      const bytes = concatBytes(held, Uint8Array.of(byte));
      if (unfinishedBytes(bytes) === bytes.length) return [bytes, []];
      try {
        return [new Uint8Array(0), [strict.decode(bytes)]];
      } catch {
        // The earlier bytes are lost; the new one may be a character or begin one.
        if (held.length === 0) return [held, ["\uFFFD"]];
        const [state, pieces] = this.push(new Uint8Array(0), piece);
        return [state, [...lost(held), ...pieces]];
      }
    },
    flush: lost,
  };
}

/** The end-of-word mark of older BPE vocabularies is a space, except at the end of the text. */
function wordSuffix(suffix: string): DecoderStage<readonly string[]> {
  return {
    initial: [],
    push(held, piece) {
      const [first, ...rest] = piece.split(suffix);
      return [rest, [...held.map((part) => ` ${part}`), first!]];
    },
    flush: (held) => held,
  };
}

function stripSettings(part: ComponentJson) {
  return { content: String(part.content), start: Number(part.start), stop: Number(part.stop) };
}

function stripStart(piece: string, content: string, most: number): string {
  let cut = 0;
  for (let i = 0; i < most && piece.startsWith(content, cut); i++) cut += content.length;
  return piece.slice(cut);
}

function stripEnd(piece: string, content: string, most: number): string {
  let end = piece.length;
  for (let i = 0; i < most && piece.endsWith(content, end); i++) end -= content.length;
  return piece.slice(0, end);
}

/** Strips up to `most` copies of one character from the very beginning of the text. */
function stripFused(content: string, most: number): DecoderStage<number> {
  return {
    initial: most,
    push(left, piece) {
      if (left === 0 || piece === "") return [left, [piece]];
      const rest = stripStart(piece, content, left);
      return [rest === "" ? left - piece.length / content.length : 0, [rest]];
    },
    flush: () => [],
  };
}

/** Strips up to `most` copies of one character from the very end of the text; those at the end so far are held back. */
function stripFusedEnd(content: string, most: number): DecoderStage<string> {
  return {
    initial: "",
    push(held, piece) {
      const shown = stripEnd(held + piece, content, most);
      return [(held + piece).slice(shown.length), [shown]];
    },
    flush: () => [],
  };
}

/** Replaces a pattern that may span tokens; text that could still become a match is held back. */
function replaceFused(pattern: string, content: string): DecoderStage<string> {
  return {
    initial: "",
    push(held, piece) {
      const parts = (held + piece).split(pattern);
      const last = parts.pop()!;
      const waiting = partialMatch(last, pattern);
      parts.push(last.slice(0, last.length - waiting));
      return [last.slice(last.length - waiting), [parts.join(content)]];
    },
    flush: (held) => [held],
  };
}

/** Length of the longest end of `text` with which `wanted` begins, without being all of it. */
export function partialMatch(text: string, wanted: string): number {
  let size = Math.min(wanted.length - 1, text.length);
  while (size > 0 && !text.endsWith(wanted.slice(0, size))) size--;
  return size;
}

function metaspace(replacement: string, prepended: boolean): DecoderStage<number> {
  return perToken((piece, index) => piece.replaceAll(replacement, index === 0 && prepended ? "" : " "));
}

/** WordPiece: `##` glues a piece to the one before it; `cleanup` undoes the spaces of English punctuation. */
function wordPiece(prefix: string, cleanup: boolean): DecoderStage<number> {
  return perToken((piece, index) => {
    let text = piece;
    if (index > 0) text = piece.startsWith(prefix) ? piece.slice(prefix.length) : ` ${piece}`;
    return cleanup ? cleanUp(text) : text;
  });
}

function cleanUp(text: string): string {
  const rules = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " do not", " 's", " 've", " 're"];
  return rules.reduce((out, rule) => out.replaceAll(rule, rule === " do not" ? " don't" : rule.trim()), text);
}

/** Connectionist temporal classification: a token that repeats the one before it counts once, and padding is dropped. */
function ctc(part: ComponentJson): DecoderStage<string | null> {
  return {
    initial: null,
    push(before, piece) {
      const text = piece === before ? "" : ctcText(part, piece);
      return [piece, text === "" ? [] : [text]];
    },
    flush: () => [],
  };
}

function ctcText(part: ComponentJson, piece: string): string {
  const text = piece.replaceAll(String(part.pad_token), "");
  return part.cleanup === false ? text : cleanUp(text).replaceAll(String(part.word_delimiter_token), " ");
}
