/** Text and how it was encoded. */
export interface Decoded {
  readonly text: string;
  readonly encoding: string;
}

/**
 * Encodings of two bytes a sign, with the first bytes of their signs, kana and everyday characters, and where second bytes begin:
 * a text read as another's has rare characters everywhere. Japanese without kana is taken for Chinese in EUC.
 */
const eastern = [
  {
    encoding: "shift_jis",
    everyday: [
      [0x81, 0x83],
      [0x88, 0x97],
    ],
    from: 0x40,
    hasKana: false,
  },
  {
    encoding: "euc-jp",
    everyday: [
      [0xa1, 0xa5],
      [0xb0, 0xcf],
    ],
    from: 0xa1,
    hasKana: true,
  },
  {
    encoding: "gbk",
    everyday: [
      [0xa1, 0xa3],
      [0xb0, 0xd7],
    ],
    from: 0xa1,
    hasKana: false,
  },
] as const;
/** The share of everyday signs that decides. */
const CERTAIN = 0.8;

/**
 * The text of a file: by its byte order mark, as UTF-8, as Japanese or Chinese where that wins clearly, else as windows-1252.
 * Null: it is no text.
 */
export function decodeText(bytes: Uint8Array): Decoded | null {
  for (const [encoding, mark] of [
    ["utf-8", "efbbbf"],
    ["utf-16le", "fffe"],
    ["utf-16be", "feff"],
  ] as const)
    if (Buffer.from(bytes.subarray(0, mark.length / 2)).toString("hex") === mark) {
      const text = strictly(bytes, encoding);
      return text === null ? null : { text, encoding };
    }
  const utf8 = strictly(bytes, "utf-8");
  if (utf8 !== null) return isText(utf8) ? { text: utf8, encoding: "utf-8" } : null;
  for (const { encoding, ...signs } of eastern) {
    const text = strictly(bytes, encoding);
    if (text !== null && isText(text) && isCertain(bytes, text, signs)) return { text, encoding };
  }
  const text = new TextDecoder("windows-1252").decode(bytes);
  return isText(text) ? { text, encoding: "windows-1252" } : null;
}

function strictly(bytes: Uint8Array, encoding: string): string | null {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** Whether it has no more than a trace of control characters. */
function isText(text: string): boolean {
  const odd =
    text.match(/[\p{Cc}\ufffd]/gu)?.filter((sign) => !"\t\n\r\f\v\u001b".includes(sign)).length ?? 0;
  return odd <= text.length / 1000;
}

/** A Western text read as one of these has single signs between Latin letters. */
function isCertain(
  bytes: Uint8Array,
  text: string,
  { everyday, from, hasKana }: Omit<(typeof eastern)[number], "encoding">,
): boolean {
  let [signs, known, alone] = [0, 0, 0];
  let before = -2;
  for (let at = 0; at + 1 < bytes.length; at++) {
    const [first, second] = [bytes[at], bytes[at + 1]];
    if (first < 0x80) continue;
    signs++;
    if (second >= from && everyday.some(([low, high]) => low <= first && first <= high)) known++;
    if (before !== at - 2 && (bytes[at + 2] ?? 0) < 0x80) alone++;
    before = at++;
  }
  const kana = text.match(/[\p{Script=Hiragana}\p{Script=Katakana}]/gu)?.length ?? 0;
  return known >= CERTAIN * signs && alone <= (1 - CERTAIN) * signs && (!hasKana || kana >= 0.1 * signs);
}
