import { hostname } from "node:os";
import { join } from "node:path";
import { AppendFile } from "./append_file.ts";

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli) as an unsigned 32-bit number. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** TFRecord's masked CRC: rotated and shifted, so that a CRC stored inside checked data does not weaken the check. */
function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Frames a payload as a TFRecord: u64 length, CRC of the length, payload, CRC of the payload. */
function record(payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(payload.length + 16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(payload.length), true);
  view.setUint32(8, maskedCrc(bytes.subarray(0, 8)), true);
  bytes.set(payload, 12);
  view.setUint32(12 + payload.length, maskedCrc(payload), true);
  return bytes;
}

/** A protobuf base-128 number of up to 53 bits. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return [...bytes, rest];
}

// Wire types of protobuf: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
const numberField = (field: number, value: number) => [field << 3, ...varint(value)];
const bytesField = (field: number, value: Uint8Array | number[]) => [
  (field << 3) | 2,
  ...varint(value.length),
  ...value,
];
const doubleField = (field: number, value: number) => [
  (field << 3) | 1,
  ...new Uint8Array(Float64Array.of(value).buffer),
];
const floatField = (field: number, value: number) => [
  (field << 3) | 5,
  ...new Uint8Array(Float32Array.of(value).buffer),
];

let writers = 0;

/**
 * Writes scalars as a TensorBoard event file, `events.out.tfevents.SECONDS.HOST.PID.N`: TFRecords of protobuf `Event`
 * (tensorflow/core/util/event.proto), the first of which names the format version.
 */
export class EventWriter {
  readonly #file: AppendFile;

  constructor(directory: string, wallTime = Date.now() / 1000) {
    const name = `events.out.tfevents.${Math.floor(wallTime)}.${hostname()}.${process.pid}.${writers++}`;
    this.#file = new AppendFile(join(directory, name), "a");
    const version = new TextEncoder().encode("brain.Event:2");
    this.#append([...doubleField(1, wallTime), ...bytesField(3, version)]);
  }

  get path(): string {
    return this.#file.path;
  }

  /** Adds one point to each named curve. `wallTime` is in seconds since 1970. */
  scalars(step: number, values: Record<string, number>, wallTime = Date.now() / 1000): void {
    const summary = Object.entries(values).flatMap(([tag, value]) =>
      bytesField(1, [...bytesField(1, new TextEncoder().encode(tag)), ...floatField(2, value)]),
    );
    this.#append([...doubleField(1, wallTime), ...numberField(2, step), ...bytesField(5, summary)]);
  }

  flush(): void {
    this.#file.flush();
  }

  close(): void {
    this.#file.close();
  }

  #append(event: number[]): void {
    this.#file.append(record(Uint8Array.from(event)));
  }
}
