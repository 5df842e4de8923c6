import { fromByteAlphabet } from "./byte_alphabet.ts";
import { type ComponentJson, componentList } from "./tokenizer_json.ts";

/**
 * One step of a decoder, fed token by token. `push` takes a piece and returns the pieces that are now certain;
 * `flush` returns what was held back. Pieces come one per token, until a step that fuses them.
 */
export interface DecoderStage {
  push(piece: string): string[];
  flush(): string[];
}

/**
 * The steps of a `tokenizer.json` decoder in a form that needs no look at earlier text, so that a token costs the
 * same at the end of a long answer as at its start. Returns null for a decoder that cannot be fed token by token
 * (CTC, a replacement over fused text, trimming at the end): the caller then decodes everything at once.
 * Every step gives, joined, what Hugging Face's decoder of the same type gives for the whole list.
 */
export function decoderStages(decoder: ComponentJson | null): DecoderStage[] | null {
  if (decoder === null) return [joinWithSpaces()];
  const stages: DecoderStage[] = [];
  let fused = false;
  for (const part of componentList(decoder)) {
    const stage = stageOf(part, fused);
    if (stage === null) return null;
    stages.push(stage);
    fused ||= part.type === "Fuse" || part.type === "ByteLevel";
  }
  return stages;
}

function stageOf(part: ComponentJson, fused: boolean): DecoderStage | null {
  if (part.type === "Fuse") return perToken((piece) => piece);
  if (part.type === "Strip") {
    if (part.stop !== 0) return null;
    const strip = { content: String(part.content), start: Number(part.start) };
    return fused ? stripFused(strip.content, strip.start) : perToken((piece) => stripStart(piece, strip));
  }
  if (fused) return null;
  switch (part.type) {
    case "ByteLevel":
      return byteLevel();
    case "ByteFallback":
      return byteFallback();
    case "Replace": {
      const pattern = (part.pattern as { String?: string }).String;
      return pattern === undefined
        ? null
        : perToken((piece) => piece.replaceAll(pattern, () => `${part.content}`));
    }
    case "Metaspace":
      return metaspace(String(part.replacement ?? "▁"), part.prepend_scheme !== "never");
    case "WordPiece":
      return wordPiece(String(part.prefix ?? "##"), part.cleanup !== false);
    default:
      return null;
  }
}

function perToken(change: (piece: string, index: number) => string): DecoderStage {
  let index = 0;
  return { push: (piece) => [change(piece, index++)], flush: () => [] };
}

/** No decoder at all: tokens are joined by single spaces. */
function joinWithSpaces(): DecoderStage {
  return perToken((piece, index) => (index === 0 ? piece : ` ${piece}`));
}

/** Bytes to UTF-8; an unfinished sequence waits for its rest, an invalid one becomes U+FFFD. */
function byteLevel(): DecoderStage {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    push: (piece) => [utf8.decode(fromByteAlphabet(piece), { stream: true })],
    flush: () => [utf8.decode()],
  };
}

/** The byte of a SentencePiece byte token such as `<0x0A>`, or null. */
export function byteFallbackByte(token: string): number | null {
  const match = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  return match === null ? null : Number.parseInt(match[1]!, 16);
}

/**
 * SentencePiece byte tokens: a run of them becomes text when the whole run is valid UTF-8, and one U+FFFD a byte
 * otherwise. What the first byte turns into depends on the last one, so a run is held back until it ends.
 */
function byteFallback(): DecoderStage {
  const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
  let run: number[] = [];
  const endRun = (): string[] => {
    if (run.length === 0) return [];
    const bytes = Uint8Array.from(run);
    run = [];
    try {
      return [strict.decode(bytes)];
    } catch {
      return Array.from(bytes, () => "\uFFFD");
    }
  };
  return {
    push: (piece) => {
      const byte = byteFallbackByte(piece);
      if (byte === null) return [...endRun(), piece];
      run.push(byte);
      return [];
    },
    flush: endRun,
  };
}

function stripStart(piece: string, { content, start }: { content: string; start: number }): string {
  let cut = 0;
  for (let i = 0; i < start && piece.startsWith(content, cut); i++) cut += content.length;
  return piece.slice(cut);
}

/** Strips up to `start` copies of one character from the very beginning of the text. */
function stripFused(content: string, start: number): DecoderStage {
  let left = start;
  return {
    push: (piece) => {
      if (left === 0 || piece === "") return [piece];
      const rest = stripStart(piece, { content, start: left });
      left = rest === "" ? left - piece.length / content.length : 0;
      return [rest];
    },
    flush: () => [],
  };
}

function metaspace(replacement: string, prepended: boolean): DecoderStage {
  return perToken((piece, index) => piece.replaceAll(replacement, index === 0 && prepended ? "" : " "));
}

/** WordPiece: `##` glues a piece to the one before it; `cleanup` undoes the spaces of English punctuation. */
function wordPiece(prefix: string, cleanup: boolean): DecoderStage {
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
