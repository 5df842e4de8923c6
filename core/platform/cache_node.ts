import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { cacheDir } from "./adapter_node.ts";
import { atomicWriteText } from "./files.ts";

/** A JSON value in the user's cache: losing it costs time, never a result. */
export interface Remembered<T> {
  /** Null if there is none, or none that can be read. */
  load(): T | null;
  /** Replaces it as a whole; a cache that cannot be written is no error. */
  save(value: T): void;
}

/**
 * The remembered value of a kind (`tuning`, say) for one subject. A subject names everything that the value depends on
 * (adapter, driver, toggles, sources); each has a file of its own.
 */
export function remembered<T>(kind: string, subject: string): Remembered<T> {
  const name = createHash("sha256").update(subject).digest("hex").slice(0, 24);
  const file = path.join(cacheDir(), kind, `${name}.json`);
  return {
    load: () => {
      try {
        const kept = JSON.parse(readFileSync(file, "utf8")) as { subject: string; value: T };
        return kept.subject === subject ? kept.value : null;
      } catch {
        return null;
      }
    },
    save: (value) => {
      try {
        atomicWriteText(file, `${JSON.stringify({ subject, value }, null, 1)}\n`);
      } catch {
        // A read-only cache: the next process finds the value out again.
      }
    },
  };
}
