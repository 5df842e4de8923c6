import { Unreadable } from "./extracted.ts";

export interface ZipEntry {
  readonly name: string;
  readonly bytes: number;
}

/** What an archive may unpack to: a small file must not fill memory or disk. */
const MOST_BYTES = 100e6;
const MOST_RATIO = 100;
const MOST_ENTRIES = 2000;
/** Small parts may shrink more. */
const FREE_BYTES = 1e6;

/** The parts of a zip archive by its central directory, before any of it is unpacked. @throws Unreadable of a damaged one and of bombs. */
export function zipEntries(bytes: Uint8Array): ZipEntry[] {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = view.lastIndexOf("PK\x05\x06", undefined, "latin1");
  if (end < 0 || end + 22 > view.length) throw new Unreadable("the file is cut off: upload it again");
  const count = view.readUInt16LE(end + 10);
  let at = view.readUInt32LE(end + 16);
  if (count > MOST_ENTRIES) throw new Unreadable(`it has over ${MOST_ENTRIES} parts: split the file`);
  const entries: ZipEntry[] = [];
  let [packed, unpacked] = [0, 0];
  for (let i = 0; i < count; i++) {
    if (at + 46 > view.length || view.readUInt32LE(at) !== 0x02014b50)
      throw new Unreadable("the file is damaged: its list of parts cannot be read; save it again");
    if (view.readUInt16LE(at + 8) & 1)
      throw new Unreadable("the file is encrypted: save it without a password");
    packed += view.readUInt32LE(at + 20);
    unpacked += view.readUInt32LE(at + 24);
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.readUInt16LE(at + offset));
    entries.push({
      name: view.toString("utf8", at + 46, at + 46 + nameLength),
      bytes: view.readUInt32LE(at + 24),
    });
    at += 46 + nameLength + extra + comment;
  }
  if (unpacked > MOST_BYTES || (unpacked > FREE_BYTES && unpacked > MOST_RATIO * packed))
    throw new Unreadable(`the file unpacks to ${Math.round(unpacked / 1e6)} MB, more than is read: split it`);
  return entries;
}
