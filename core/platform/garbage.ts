import type { Storage } from "../device.ts";
import { byteSize } from "../dtype.ts";

/** The record of a storage outside of every scope: enough to free its memory once it is unreachable. */
export interface Watch {
  readonly release: () => void;
  readonly bytes: number;
  readonly ref: WeakRef<Storage>;
}

const watched = new Set<Watch>();
const registry = new FinalizationRegistry<Watch>(giveBack);

/** Bytes that storages outside of scopes may hold before the first collection within a turn of the event loop. */
const least = 2 ** 28;
/** The least that a buffer takes, in bytes. */
const smallest = 512;
let limit = least;
let held = 0;
let collectNow: (() => void) | null = null;

/**
 * Sets a function that runs JavaScript's garbage collector at once. The registry above gets a turn only when the program
 * awaits; with this function, a loop that never awaits gives its memory back too, whenever twice as much is held as after
 * the last collection.
 */
export function collectWith(collect: () => void): void {
  collectNow = collect;
}

/** The safety net of code that uses no scope: memory returns to its device when nothing refers to the storage any more. */
export function watch(storage: Storage): Watch {
  const { device, dtype, length, handle } = storage;
  const bytes = Math.max(length * byteSize(dtype), smallest);
  const room = { device, dtype, length, handle } as Storage;
  const entry: Watch = { release: () => device.release(room), bytes, ref: new WeakRef(storage) };
  watched.add(entry);
  registry.register(storage, entry, storage);
  held += bytes;
  if (held > limit) collect();
  return entry;
}

/** Removes the safety net: the storage was freed, or a scope frees it. */
export function unwatch(storage: Storage, entry: Watch): void {
  registry.unregister(storage);
  if (watched.delete(entry)) held -= entry.bytes;
}

function giveBack(entry: Watch): void {
  if (!watched.delete(entry)) return;
  held -= entry.bytes;
  entry.release();
}

function collect(): void {
  if (!collectNow) return;
  collectNow();
  for (const entry of watched) if (!entry.ref.deref()) giveBack(entry);
  limit = Math.max(least, 2 * held);
}
