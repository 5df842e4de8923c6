import { execFileSync } from "node:child_process";
import { constants, copyFileSync, linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { textIfPresent, writeError } from "../core/platform/files.ts";
import { makeFolder } from "../core/platform/folders.ts";

/** The process that writes a run folder. */
interface Owner {
  pid: number;
  host: string;
  /** When that process began, in the system's own words, or null where it does not say: process ids are reused. */
  started: string | null;
}

/** The file that says a run folder is being written. */
export const lockFile = ".lock";

/**
 * Makes this process the only one that writes a run folder, until the returned function is called or the process exits.
 * A lock whose owner is gone (a killed process, also one whose id another has now) is taken over. Throws a KilnError
 * (`run_locked`) that names the owner while it lives, or where it is on another machine and cannot be asked.
 */
export function lockRun(folder: string): () => void {
  const path = join(folder, lockFile);
  const own = JSON.stringify({ pid: process.pid, host: hostname(), started: startOf(process.pid) });
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2, 10)}`;
  try {
    makeFolder(folder);
    writeFileSync(draft, own);
    // A link is made whole or not at all, and only where nothing is: nobody sees half a lock.
    while (!linked(draft, path)) takeAway(path, `${draft}.stale`);
  } catch (error) {
    throw writeError(path, error);
  } finally {
    rmSync(draft, { force: true });
  }
  const release = () => {
    process.off("exit", release);
    if (textIfPresent(path) === own) rmSync(path, { force: true });
  };
  process.on("exit", release);
  return release;
}

function linked(from: string, to: string): boolean {
  // Not every file system has links; a copy is at least made only where nothing is.
  for (const put of [linkSync, (a: string, b: string) => copyFileSync(a, b, constants.COPYFILE_EXCL)]) {
    try {
      put(from, to);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
      if (put !== linkSync) throw error;
    }
  }
  return false;
}

/** Removes the lock of an owner that is gone; throws where it is not. */
function takeAway(path: string, aside: string): void {
  const text = textIfPresent(path);
  if (text === null) return;
  const owner = ownerOf(text);
  if (owner && isHeld(owner)) {
    const where = owner.host === hostname() ? "" : ` on ${owner.host}`;
    const remedy = where
      ? `if that one is gone, delete ${path}`
      : "wait for it, stop it, or give another --out";
    throw new KilnError(`another process (${owner.pid}${where}) is writing this run folder: ${remedy}`, {
      code: "run_locked",
    });
  }
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  // Another process may have been quicker, and this be its new lock: it goes back.
  if (textIfPresent(aside) !== text) linked(aside, path);
  rmSync(aside, { force: true });
}

/** Null for what no lock of this program says, such as a file cut off by a power cut. */
function ownerOf(text: string): Owner | null {
  try {
    const owner = JSON.parse(text) as Owner;
    return Number.isInteger(owner.pid) && typeof owner.host === "string" ? owner : null;
  } catch {
    return null;
  }
}

function isHeld({ pid, host, started }: Owner): boolean {
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  return started === null || now === null || now === started;
}

/** When a process began: on Linux clock ticks since a boot and which boot that was, elsewhere what `ps` says. */
function startOf(pid: number): string | null {
  try {
    if (process.platform === "linux") {
      // The name, in parentheses, may hold spaces; the start is the 22nd field, the 20th after it.
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\)/s, "").trim().split(" ");
      return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${fields[19]}`;
    }
    const stdio: ["ignore", "pipe", "ignore"] = ["ignore", "pipe", "ignore"];
    return (
      execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8", stdio }).trim() || null
    );
  } catch {
    return null;
  }
}
