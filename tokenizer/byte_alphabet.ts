/**
 * The byte alphabet of GPT-2's byte-level BPE: every byte has one printable character, so that any byte sequence
 * is a string without spaces or control characters. Printable Latin-1 bytes stand for themselves; the others take
 * the code points from U+0100 on, in byte order (Radford et al. 2019, `bytes_to_unicode` of the reference encoder).
 */
export const byteToChar: readonly string[] = buildAlphabet();

/** The inverse of `byteToChar`: character to byte. */
const charToByte: ReadonlyMap<string, number> = new Map(byteToChar.map((char, byte) => [char, byte]));

function buildAlphabet(): string[] {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
}

const encoder = new TextEncoder();

/**
 * The bytes that a byte-level token stands for. A token with a character outside the alphabet (an added token,
 * say) stands for its own UTF-8 text, as in Hugging Face's ByteLevel decoder.
 */
export function fromByteAlphabet(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  let length = 0;
  for (const char of token) {
    const byte = charToByte.get(char);
    if (byte === undefined) return encoder.encode(token);
    bytes[length++] = byte;
  }
  return bytes.subarray(0, length);
}
