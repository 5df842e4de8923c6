import type { Limits } from "../limits.ts";
import { HttpError } from "./errors.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/**
 * The value of a JSON body in UTF-8, with or without a byte order mark. Depth and size are checked before anything is
 * allocated for it. Text must be well-formed: tokenizers, stop strings and clients treat a lone surrogate differently, so
 * it is refused wherever it occurs.
 * @throws HttpError 400.
 */
export function parseJson(body: Uint8Array, limits: Limits): unknown {
  let text: string;
  try {
    text = utf8.decode(body);
  } catch {
    throw invalid("the request body is not valid UTF-8");
  }
  checkExtent(text, limits);
  try {
    return withExactSeed(JSON.parse(text), text);
  } catch {
    throw invalid(
      text === "" ? "the request body is empty; send a JSON object" : "the request body is not valid JSON",
    );
  }
}

/** Reads a seed past 2^53 as a bigint: JSON.parse rounds it, and different seeds would give the same answer. */
function withExactSeed(body: unknown, text: string): unknown {
  const seed = (body as { seed?: unknown } | null)?.seed;
  if (!Number.isInteger(seed) || Number.isSafeInteger(seed)) return body;
  let literal: string | undefined;
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === OPEN_BRACE || char === OPEN_BRACKET) depth++;
    else if (char === CLOSE_BRACE || char === CLOSE_BRACKET) depth--;
    if (char !== QUOTE) continue;
    const start = i;
    i = stringEnd(text, i);
    if (depth !== 1 || JSON.parse(text.slice(start, i + 1)) !== "seed") continue;
    // The last of equal keys counts, as in JSON.parse.
    literal = /^\s*:\s*(-?\d+)\s*[,}]/.exec(text.slice(i + 1, i + 200))?.[1];
  }
  return literal === undefined ? body : { ...(body as object), seed: BigInt(literal) };
}

/** Counts depth, members and values outside of strings. Invalid JSON passes: the parser will refuse it. */
function checkExtent(text: string, { jsonDepth, jsonMembers, jsonValues }: Limits): void {
  let depth = 0;
  let members = 0;
  let values = 1;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === QUOTE) i = stringEnd(text, i);
    else if (char === COMMA) values++;
    else if (char === COLON) members++;
    else if (char === OPEN_BRACE || char === OPEN_BRACKET) {
      members++;
      depth++;
    } else if (char === CLOSE_BRACE || char === CLOSE_BRACKET) depth--;
    if (depth > jsonDepth) throw invalid(`the JSON body is nested deeper than ${jsonDepth}`);
    if (values > jsonValues) throw invalid(`the JSON body has more than ${jsonValues} values`);
    if (members > jsonMembers) {
      throw invalid(`the JSON body has more than ${jsonMembers} members, objects and arrays`);
    }
  }
}

const [QUOTE, BACKSLASH, COMMA, COLON, SMALL_U] = [0x22, 0x5c, 0x2c, 0x3a, 0x75];
const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET] = [0x7b, 0x7d, 0x5b, 0x5d];

/** Index of the quote that ends the string beginning at `start`, or the text's length. */
function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === QUOTE) return i;
    if (char !== BACKSLASH) continue;
    i++;
    if (text.charCodeAt(i) !== SMALL_U) continue;
    // Valid UTF-8 contains no surrogates, so they can only occur as escapes.
    if (!surrogate.test(text.slice(i, i + 5))) continue;
    if (!surrogatePair.test(text.slice(i, i + 11))) throw invalid(LONE_SURROGATE);
    i += 10;
  }
  return text.length;
}

const surrogate = /^u[dD][89a-fA-F]/;
const surrogatePair = /^u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}$/;
const LONE_SURROGATE =
  "the JSON body holds one half of a surrogate pair (\\ud800 to \\udfff), which is no character";

function invalid(message: string): HttpError {
  return new HttpError(400, message, { code: "invalid_json" });
}
