import { randomFillSync } from "node:crypto";

let last = 0;
let counter = 0;

/**
 * A new UUIDv7 (RFC 9562): 48 bits of the time in milliseconds, 12 bits that count within a millisecond, 62 random bits.
 * Those of one process sort by when they were made, as text too.
 */
export function newId(now: number = Date.now()): string {
  if (now > last) {
    last = now;
    counter = 0;
  } else if (++counter === 4096) {
    last++; // a millisecond ahead of the clock rather than out of order
    counter = 0;
  }
  const bytes = randomFillSync(Buffer.allocUnsafe(16));
  bytes.writeUIntBE(last, 0, 6);
  bytes.writeUInt16BE(0x7000 | counter, 6);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
