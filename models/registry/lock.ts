import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { KilnError } from "../../core/errors.ts";
import { takeLock } from "../../core/platform/lock.ts";

/** What runs under the lock of a name takes milliseconds; a copy of a large model to the disk's end, seconds. */
const longestWait = 60_000;

/**
 * Does `work` while nobody else changes the versions of a name: waits for whoever does, and takes the lock over from a process
 * that is gone. @throws KilnError (`registry_locked`) that names the owner after a minute.
 */
export async function withLock<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const release = await waitForLock(join(folder, ".lock"));
  try {
    return await work();
  } finally {
    release();
  }
}

async function waitForLock(path: string): Promise<() => void> {
  const locked = (owner: string, remedy: string | null) =>
    new KilnError(
      `another process (${owner}) is changing this model: ${remedy ?? "wait for it or stop it"}`,
      { code: "registry_locked" },
    );
  for (const end = performance.now() + longestWait; ; ) {
    try {
      return takeLock(path, locked);
    } catch (error) {
      if ((error as KilnError).code !== "registry_locked" || performance.now() > end) throw error;
    }
    await sleep(2 + 10 * Math.random());
  }
}
