import { execFileSync } from "node:child_process";
import {
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import type { KilnError } from "../errors.ts";
import { textIfPresent, writeError } from "./files.ts";
import { makeFolder } from "./folders.ts";

/** A process, as a lock names it. */
export interface Owner {
  pid: number;
  host: string;
  /** When that process began, in the system's own words, or null where it does not say: process ids are reused. */
  started: string | null;
}

/**
 * The error for a lock that another process holds: `owner` names that process; `remedy` says what to do where it is on
 * another machine and cannot be asked whether it lives, and is null where it does live.
 */
export type RefuseLock = (owner: string, remedy: string | null) => KilnError;

/**
 * Makes this process the only holder of the lock file `path`, until the returned function is called or the process exits.
 * A lock whose owner is gone (a killed process, also one whose id another has now) is taken over. Throws what `refuse`
 * makes while the owner lives, or where it is on another machine; a KilnError where the file cannot be written.
 */
export function takeLock(path: string, refuse: RefuseLock): () => void {
  const own = JSON.stringify(thisProcess());
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2, 10)}`;
  try {
    makeFolder(dirname(path));
    writeFileSync(draft, own);
    // A link is made whole or not at all, and only where nothing is: nobody sees half a lock.
    while (!linked(draft, path)) takeAway(path, `${draft}.stale`, refuse);
  } catch (error) {
    throw writeError(path, error);
  } finally {
    if (existsSync(draft)) rmSync(draft);
  }
  const release = () => {
    process.off("exit", release);
    if (textIfPresent(path) === own) rmSync(path, { force: true });
  };
  process.on("exit", release);
  return release;
}

export const thisProcess = (): Owner => ({
  pid: process.pid,
  host: hostname(),
  started: startOf(process.pid),
});

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
function takeAway(path: string, aside: string, refuse: RefuseLock): void {
  const text = textIfPresent(path);
  if (text === null) return;
  const owner = ownerOf(text);
  if (owner && mayLive(owner)) {
    if (owner.host === hostname()) throw refuse(`${owner.pid}`, null);
    throw refuse(`${owner.pid} on ${owner.host}`, `if that one is gone, delete ${path}`);
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

/** Whether a process is at work as far as can be seen from here: one on another machine is taken to be. */
export function mayLive({ pid, host, started }: Owner): boolean {
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
