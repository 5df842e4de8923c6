import { storeError } from "./store.ts";

export type Bytes = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** First and last byte, counted from 0, both included. */
export interface Range {
  first: number;
  last: number;
}

/**
 * Files that are too large for rows, by a key such as `users/ID/SHA256`. A key is there whole or not at all. Throws KilnError with
 * `store_key` for a key that might be a path elsewhere, `store_no_blob` where there is none, `store_differs` where the bytes are not
 * those that were said, and `disk_full` and `store_lost` for what the caller cannot help.
 */
export interface Blobs {
  readonly name: string;
  /** Keeps bytes; gives how many. Where `sha256` is given and theirs is another, nothing is kept. */
  put(key: string, bytes: Bytes, expected?: { sha256?: string }): Promise<number>;
  get(key: string, range?: Range): Promise<ReadableStream<Uint8Array>>;
  /** How many bytes it has; null where there is none. */
  stat(key: string): Promise<{ bytes: number } | null>;
  /** The keys that begin with `prefix`, in order of their bytes, those after `after` alone. */
  list(prefix?: string, after?: string): AsyncIterable<{ key: string; bytes: number }>;
  /** Says whether there was one. */
  delete(key: string): Promise<boolean>;
}

/** Names alone, none of which is hidden: no key leads out of the folder, or is two keys to a disk that ignores case. */
export function checkKey(key: string): string {
  if (key.length <= 512 && /^[a-z\d_-][a-z\d_.-]*(\/[a-z\d_-][a-z\d_.-]*)*$/.test(key)) return key;
  const shown = JSON.stringify(key.slice(0, 80));
  throw storeError(
    "key",
    `${shown} is no key of a blob: lower-case names of letters, digits, _ . -, with / between`,
  );
}

export const noBlob = (where: Blobs, key: string) =>
  storeError("no_blob", `there is no ${key} in ${where.name}`);
