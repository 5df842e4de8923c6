/**
 * Repairs UTF-8 that was read in a one-byte encoding ("itâ€™s" for "it’s"). Each repair is a sequence of characters whose bytes are
 * one valid UTF-8 character; everything else stays as it is.
 */

/** Windows-1252 at 0x80 to 0x9F: `TextDecoder` of Node 20 gives control characters there. */
const high1252 = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ";

/** Bytes 0x80 to 0xFF as characters; a byte without one stands for the control character of its value. */
function charactersOf(encoding: string): string[] {
  const bytes = Uint8Array.from({ length: 128 }, (_, i) => 128 + i);
  const text = [...new TextDecoder(encoding).decode(bytes)];
  const isWestern = encoding === "windows-1252";
  return text.map((char, i) => {
    if (isWestern && i < 32) return high1252[i];
    return char === "\ufffd" ? String.fromCharCode(128 + i) : char;
  });
}

interface Encoding {
  bytes: ReadonlyMap<string, number>;
  /** Runs of sequences, one of them, and a cheap sign of either. */
  run: RegExp;
  one: RegExp;
  /** Only punctuation, symbols and emoji are repaired. */
  isSymbolsOnly: boolean;
}

/**
 * Typographic signs that follow letters in sound text: French é, no-break space and », German ß and “. A sequence of a letter and
 * such signs alone is repaired only beside another one.
 */
const signs = /^[\u00a0«»…–—‘’“”‹›·°®©™]+$/;

function encodingOf(name: string, isSymbolsOnly: boolean): Encoding {
  const characters = charactersOf(name);
  const range = (from: number, to: number) =>
    `[${characters
      .slice(from - 128, to - 127)
      .join("")
      .replace(/[\]\\^-]/g, "\\$&")}]`;
  const rest = range(0x80, 0xbf);
  // Two bytes: Latin, Greek, Cyrillic, Hebrew and Arabic letters. É, Ö, Ü and ß begin those of rarer scripts, and end words.
  // Æ’, Ë† and Ëœ are signs of the encodings themselves, in text that was damaged twice.
  const two = `(?:${range(0xc2, 0xc5)}|${range(0xce, 0xd1)}|${range(0xd7, 0xd9)})${rest}|Æ’|Ë†|Ëœ`;
  const longer = `${range(0xe0, 0xef)}${rest}{2}|${range(0xf0, 0xf4)}${rest}{3}`;
  const sequence = isSymbolsOnly ? longer : `${two}|${longer}`;
  return {
    bytes: new Map(characters.map((char, i) => [char, 128 + i])),
    run: new RegExp(`(?:${sequence})+`, "g"),
    one: new RegExp(sequence, "g"),
    isSymbolsOnly,
  };
}

let known: Encoding[] | undefined;
const encodings = () => {
  known ??= [
    encodingOf("windows-1252", false),
    encodingOf("windows-1254", false),
    encodingOf("windows-1250", true),
    encodingOf("windows-1251", true),
  ];
  return known;
};

/** The character that bytes are in UTF-8, or null for an overlong form, half of a surrogate pair or too high a number. */
function decoded(bytes: readonly number[]): number | null {
  const [lead, ...rest] = bytes;
  const size = bytes.length;
  const point = rest.reduce((sum, byte) => sum * 64 + (byte & 63), lead & (0x7f >> size));
  const least = [0x80, 0x800, 0x10000][size - 2];
  return point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000) ? null : point;
}

/** What a sequence stands for, or null where it is more likely meant. */
function repaired(sequence: string, { bytes, isSymbolsOnly }: Encoding, isAlone: boolean): string | null {
  const values = [...sequence].map((char) => bytes.get(char)!);
  const point = decoded(values);
  if (point === null) return null;
  const rest = sequence.slice(1);
  if (isSymbolsOnly) {
    // Ukrainian "дії" and Serbian "ноћ»" are valid sequences of letters in Windows-1251.
    const isSymbol =
      (point >= 0x2000 && point < 0x2c00) || (point >= 0xfe00 && point < 0xfe10) || point >= 0x1f000;
    return isSymbol && /^[\p{L}‚„€]/u.test(rest) ? String.fromCodePoint(point) : null;
  }
  const isUsual = values[0] === 0xc2 || values[0] === 0xc3 || values[0] === 0xe2;
  if (isAlone && !isUsual && signs.test(rest)) return null;
  // "Â€" is meant, unless the second character is a control character itself.
  if (point < 0xa0 && values[1] < 0xa0 && rest !== String.fromCharCode(values[1])) return null;
  return String.fromCodePoint(point);
}

function repairOnce(text: string, encoding: Encoding): { text: string; count: number } {
  let count = 0;
  const result = text.replace(encoding.run, (run) => {
    const sequences = run.match(encoding.one)!;
    return sequences
      .map((sequence) => {
        const whole = repaired(sequence, encoding, sequences.length === 1);
        if (whole !== null) count++;
        return whole ?? sequence;
      })
      .join("");
  });
  return { text: result, count };
}

/** U+FE0F (the emoji form of a character) whose third byte is lost. */
const lostSelector = /ï¸(?![\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ€])/g;
/** Emoji and quotes of which a byte is lost. */
const damaged = /[ðğ]Ÿ[^\s\w]?|â€(?![\u0080-\u00bf])/g;

/**
 * Repairs a text, also one that was damaged up to three times. Of Windows-1252, 1254, 1250 and 1251 the encoding with most
 * repairs is taken each time. `left` are sequences that lack a byte: what they were cannot be told, and they stay.
 */
export function repairMojibake(text: string): { text: string; repairs: number; left: string[] } {
  let repairs = 0;
  let current = text;
  for (let pass = 0; pass < 3 && /[^\p{ASCII}]/u.test(current); pass++) {
    const found = encodings()
      .map((encoding) => repairOnce(current, encoding))
      .reduce((best, other) => (other.count > best.count ? other : best));
    if (found.count === 0) break;
    repairs += found.count;
    current = found.text;
  }
  current = current.replace(lostSelector, () => {
    repairs++;
    return "";
  });
  return { text: current, repairs, left: current.match(damaged) ?? [] };
}
