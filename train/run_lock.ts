import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { takeLock } from "../core/platform/lock.ts";

/** The file that says a run folder is being written. */
export const lockFile = ".lock";

/**
 * Makes this process the only one that writes a run folder (`takeLock`). Throws a KilnError (`run_locked`) that names the
 * owner while it lives, or where it is on another machine and cannot be asked.
 */
export function lockRun(folder: string): () => void {
  return takeLock(join(folder, lockFile), (owner, remedy) => {
    const advice = remedy ?? "wait for it, stop it, or give another --out";
    return new KilnError(`another process (${owner}) is writing this run folder: ${advice}`, {
      code: "run_locked",
      exitCode: 75,
    });
  });
}
