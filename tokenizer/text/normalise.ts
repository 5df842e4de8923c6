/** Characters that mean the same are made the same, and those that nobody sees are taken away. */

const ligatures: Record<string, string> = {
  ...{ "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl" },
  ...{ "\ufb05": "st", "\ufb06": "st" },
};

/** LF line ends, no byte order mark, U+FFFD for half of a surrogate pair. */
export function soundLines(text: string): string {
  return text
    .replace(/^\ufeff/, "")
    .replace(/\r\n?|[\u2028\u2029]/g, "\n")
    .replace(/\p{Surrogate}/gu, "\ufffd");
}

/** NFC with Latin ligatures as letters. Not NFKC, which would make 2 of ². */
export function composed(text: string): string {
  return text.normalize("NFC").replace(/[\ufb00-\ufb06]/g, (char) => ligatures[char]);
}

/**
 * Without controls of writing direction, zero-width spaces, word joiners, soft hyphens and control characters, with a plain space
 * for each space of Unicode. Line feeds and tabs stay, and so do the joiners that emoji, Persian and Indic words need.
 */
export function withoutInvisible(text: string): string {
  return text
    .replace(/[\p{Bidi_Control}\p{Noncharacter_Code_Point}\u200b\u2060\ufeff\u00ad]|(?![\n\t])\p{Cc}/gu, "")
    .replace(/(?! )\p{Zs}/gu, " ");
}

/**
 * No more than three of a character in a row (digits, rules and box drawings excepted), three dots, single spaces, none at the ends
 * of lines, one empty line. `\ufdd0` stands for what is not to be changed.
 */
export function tidied(text: string): string {
  return text
    .replace(/([^\p{Nd}\n.\-=_*#~\ufdd0\u2500-\u259f ])\1{3,}/gu, "$1$1$1")
    .replace(/\.{4,}/g, "...")
    .replace(/[ \t]+/g, " ")
    .replace(/ +(?=\n|$)/g, "")
    .replace(/\n{3,}/g, "\n\n");
}

/** Runs of letters and digits; each character of scripts that write no spaces between words is one of its own. */
const words =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]|(?:(?![\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}])[\p{L}\p{N}\p{M}])+/gu;
/** The same for text of ASCII alone, which is most text. */
const asciiWords = /[a-z0-9]+/g;

/** The words of a text in NFKC and lower case: what duplicates and repetition are told by. */
export function wordsOf(text: string): string[] {
  if (/^[\0-\x7f]*$/.test(text)) return text.toLowerCase().match(asciiWords) ?? [];
  return text.normalize("NFKC").toLowerCase().match(words) ?? [];
}
