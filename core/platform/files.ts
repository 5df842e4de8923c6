import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { KilnError } from "../errors.ts";
import { makeFolder } from "./folders.ts";

/**
 * Files that survive a crash. A file or directory is written beside its final place, flushed to the disk, and renamed:
 * a reader finds the old state or the new one, never a half.
 */

/** The few file operations used here, so that a test can make any one of them fail. */
export interface FileSystem {
  open(path: string, flags: string): Promise<WritableFile>;
  mkdir(path: string, options: { recursive: true }): Promise<unknown>;
  readdir(path: string): Promise<string[]>;
  rename(from: string, to: string): Promise<void>;
  rm(path: string, options: { recursive: true; force: true }): Promise<void>;
  stat(path: string): Promise<{ isDirectory(): boolean }>;
}

export interface WritableFile {
  writeFile(data: Uint8Array): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

const nodeFileSystem: FileSystem = {
  open,
  mkdir: async (path) => makeFolder(path),
  readdir,
  rename,
  rm,
  stat,
};

function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException | null)?.code ?? "";
}

/** The one line for a file that cannot be read. */
export function readError(path: string, error: unknown): KilnError {
  const code = errorCode(error);
  if (code === "ENOENT" || code === "ENOTDIR") {
    return new KilnError(`${path} does not exist; check the path`, { code: "file_missing", cause: error });
  }
  if (code === "EACCES" || code === "EPERM") {
    return new KilnError(`${path} may not be read by this user; check its permissions`, { cause: error });
  }
  if (code === "EISDIR") return new KilnError(`${path} is a directory, not a file`, { cause: error });
  return new KilnError(`${path} cannot be read: ${firstLine(error)}`, { cause: error });
}

/** The one line for a file or directory that cannot be written; nothing that was there before is lost. */
export function writeError(path: string, error: unknown): KilnError {
  if (error instanceof KilnError) return error;
  const code = errorCode(error);
  const kept = "what was saved before is intact";
  if (code === "ENOSPC" || code === "EDQUOT") {
    const message = `no space left on the disk for ${path}: free some space and try again; ${kept}`;
    return new KilnError(message, { code: "disk_full", cause: error });
  }
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    return new KilnError(`${path} may not be written by this user: choose another folder; ${kept}`, {
      cause: error,
    });
  }
  return new KilnError(`${path} cannot be written: ${firstLine(error)}; ${kept}`, { cause: error });
}

/** The first line of an error's message. */
export function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0];
}

/** A path with the home folder for ~, where no shell has put it. */
export const fullPath = (path: string): string => path.replace(/^~(?=\/)/, homedir());

/** A place beside `path` that no other writer uses; the process id lets a later run see whether its owner still lives. */
function temporaryName(path: string): string {
  const unique = Math.random().toString(36).slice(2, 10);
  return join(dirname(path), `.${basename(path)}.tmp-${process.pid}-${unique}`);
}

/**
 * Writes a file atomically: temporary file, fsync, rename, fsync of the folder. Missing folders are made.
 * On failure the temporary file is removed, the old file stays, and a one-line KilnError is thrown (`disk_full` when full).
 */
export async function atomicWriteFile(
  path: string,
  data: string | Uint8Array | Iterable<Uint8Array>,
  fs: FileSystem = nodeFileSystem,
): Promise<void> {
  const chunks = typeof data === "string" ? [Buffer.from(data)] : data instanceof Uint8Array ? [data] : data;
  const temporary = temporaryName(path);
  try {
    await fs.mkdir(dirname(path), { recursive: true });
    const file = await fs.open(temporary, "wx");
    try {
      for (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await fs.rename(temporary, path);
    await syncDirectory(dirname(path), fs);
  } catch (error) {
    await fs.rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw writeError(path, error);
  }
}

/** The same for a small text, without a promise and without waiting for the disk: a crash of the process loses nothing. */
export function atomicWriteText(path: string, text: string): void {
  const temporary = temporaryName(path);
  try {
    makeFolder(dirname(path));
    writeFileSync(temporary, text, { flag: "wx" });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw writeError(path, error);
  }
}

/** Makes renames and new names in a folder durable. Windows cannot open folders; its renames are durable by journal. */
export async function syncDirectory(path: string, fs: FileSystem = nodeFileSystem): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await fs.open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The place of the old directory during the two renames of a replacement. */
function previousName(directory: string): string {
  return join(dirname(directory), `.${basename(directory)}.previous`);
}

async function exists(path: string, fs: FileSystem): Promise<boolean> {
  return fs.stat(path).then(
    () => true,
    (error) => {
      if (errorCode(error) === "ENOENT" || errorCode(error) === "ENOTDIR") return false;
      throw error;
    },
  );
}

/**
 * Replaces a directory as a whole. `write(temporary)` fills a new empty directory; then every file in it is flushed and it
 * takes the place of `directory`. No system call swaps two directories portably, so the old one steps aside first; a crash
 * between the two renames leaves it where `currentDirectory` finds it. One writer at a time.
 * On failure the temporary directory is removed, the old one stays, and a one-line KilnError is thrown.
 */
export async function atomicWriteDirectory(
  directory: string,
  write: (temporary: string) => Promise<void>,
  fs: FileSystem = nodeFileSystem,
): Promise<void> {
  const temporary = temporaryName(directory);
  const previous = previousName(directory);
  const parent = dirname(directory);
  try {
    await fs.mkdir(parent, { recursive: true });
    await repair(directory, fs);
    await fs.mkdir(temporary, { recursive: true });
    await write(temporary);
    await syncTree(temporary, fs);
    if (await exists(directory, fs)) await fs.rename(directory, previous);
    await fs.rename(temporary, directory);
    await syncDirectory(parent, fs);
    // The new state is in; a leftover of the old one is no failure, and the next replacement removes it.
    await fs.rm(previous, { recursive: true, force: true }).catch(() => {});
  } catch (error) {
    await fs.rm(temporary, { recursive: true, force: true }).catch(() => {});
    await repair(directory, fs).catch(() => {});
    throw writeError(directory, error);
  }
}

/** Undoes what a crashed or failed replacement left: puts the old directory back, or removes it where the new one is in. */
async function repair(directory: string, fs: FileSystem): Promise<void> {
  const previous = previousName(directory);
  if (await exists(previous, fs)) {
    if (await exists(directory, fs)) await fs.rm(previous, { recursive: true, force: true });
    else await fs.rename(previous, directory);
  }
  const prefix = `.${basename(directory)}.tmp-`;
  for (const name of await fs.readdir(dirname(directory))) {
    const owner = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : NaN;
    if (Number.isNaN(owner) || isAlive(owner)) continue;
    await fs.rm(join(dirname(directory), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) === "EPERM";
  }
}

/** Flushes every file below a folder, and the folders. */
export async function syncTree(path: string, fs: FileSystem = nodeFileSystem): Promise<void> {
  for (const name of await fs.readdir(path)) {
    const child = join(path, name);
    if ((await fs.stat(child)).isDirectory()) {
      await syncTree(child, fs);
      continue;
    }
    // Windows flushes only handles opened for writing.
    const file = await fs.open(child, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  }
  await syncDirectory(path, fs);
}

/**
 * The directory to read for `directory`: itself, or the old state where a replacement crashed midway. Changes nothing.
 * Throws KilnError (`file_missing`) when neither exists.
 */
export async function currentDirectory(directory: string): Promise<string> {
  for (const path of [directory, previousName(directory)]) {
    const found = await stat(path).catch((error) => {
      if (errorCode(error) === "ENOENT" || errorCode(error) === "ENOTDIR") return null;
      throw readError(path, error);
    });
    if (found?.isDirectory()) return path;
    if (found !== null) throw new KilnError(`${directory} is not a directory; name a model's folder`);
  }
  throw new KilnError(`${directory} does not exist; check the path`, { code: "file_missing" });
}

/** Reads a UTF-8 file. Throws a one-line KilnError that names the file when it cannot be read or is in another encoding. */
export async function readText(path: string): Promise<string> {
  const bytes = await readFile(path).catch((error) => {
    throw readError(path, error);
  });
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new KilnError(`${path} is not UTF-8 text; save it in that encoding`, { cause: error });
  }
}

/** The text of a small UTF-8 file, without a promise; null where there is no such file. Throws the system's error. */
export function textIfPresent(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errorCode(error) === "ENOENT") return null;
    throw error;
  }
}

/** Reads a UTF-8 JSON file. Throws a one-line KilnError that names the file when it is missing or not JSON. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = text.trim() === "" ? "it is empty" : firstLine(error);
    throw new KilnError(`${path} is not valid JSON: ${reason}`, { code: "json_invalid", cause: error });
  }
}

/** Whether a value of JSON is an object: neither null nor a list. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Writes JSON with two-space indentation and a final newline, atomically. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await atomicWriteFile(path, `${JSON.stringify(value, null, 2)}\n`);
}
