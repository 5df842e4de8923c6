import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { environmentVariable } from "../../../core/platform/environment.ts";

/** Lines that are kept, in memory and on disk. */
const most = 1000;

/** Where typed lines are kept: `KILN_HISTORY`, by default a file in the home folder; null where it is set to nothing. */
export function historyFile(): string | null {
  return (environmentVariable("KILN_HISTORY") ?? join(homedir(), ".kiln_history")) || null;
}

/** The lines of a history file, the latest first. One with many more than are kept is cut. */
export function readHistory(file: string): string[] {
  try {
    const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
    const kept = lines.slice(-most);
    if (lines.length > 2 * most) writeFileSync(file, kept.map((line) => `${line}\n`).join(""));
    return kept.reverse();
  } catch {
    return []; // there is none yet
  }
}

/** Adds a line, for the person's own eyes. One that cannot be written is lost: the conversation goes on. */
export function appendHistory(file: string, line: string): void {
  try {
    appendFileSync(file, `${line}\n`, { mode: 0o600 });
  } catch {
    // A read-only home.
  }
}
