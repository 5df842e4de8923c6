import { createHash, randomUUID } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, posix } from "node:path";
import { pipeline } from "node:stream/promises";
import { readError, readJson, writeError, writeJson } from "../../core/platform/files.ts";
import { mayLive, type Owner, thisProcess } from "../../core/platform/lock.ts";
import type { RegisteredFile } from "./manifest.ts";

/** Paths of the files below a folder, links followed, hidden ones left out; the path itself where it is a file. */
async function filesOf(source: string): Promise<{ from: string; path: string }[]> {
  const walk = async (folder: string, below: string): Promise<{ from: string; path: string }[]> => {
    const found: { from: string; path: string }[] = [];
    for (const name of (await readdir(folder)).sort()) {
      if (name.startsWith(".")) continue;
      const [from, path] = [join(folder, name), posix.join(below, name)];
      if ((await stat(from)).isDirectory()) found.push(...(await walk(from, path)));
      else found.push({ from, path });
    }
    return found;
  };
  if (!(await stat(source)).isDirectory()) return [{ from: source, path: basename(source) }];
  return walk(source, "");
}

/** Copies a model to a folder that does not exist yet; what was written, by path. */
export async function copyModel(source: string, to: string): Promise<RegisteredFile[]> {
  const files: RegisteredFile[] = [];
  for (const { from, path } of await filesOf(source).catch((error) =>
    Promise.reject(readError(source, error)),
  )) {
    const target = join(to, path);
    const hash = createHash("sha256");
    let bytes = 0;
    try {
      await mkdir(dirname(target), { recursive: true });
      const counted = async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          hash.update(chunk);
          bytes += chunk.length;
          yield chunk;
        }
      };
      await pipeline(createReadStream(from), counted, createWriteStream(target, { flags: "wx" }));
    } catch (error) {
      throw (error as NodeJS.ErrnoException).path === from
        ? readError(from, error)
        : writeError(target, error);
    }
    files.push({ path, bytes, sha256: hash.digest("hex") });
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** One number for the whole content. */
export const contentHash = (files: readonly RegisteredFile[]): string =>
  createHash("sha256")
    .update(files.map(({ sha256, path }) => `${sha256}  ${path}\n`).join(""))
    .digest("hex");

/** What is wrong with a file, in words; null for one that is as it was written. */
export async function damageOf(
  folder: string,
  { path, bytes, sha256 }: RegisteredFile,
): Promise<string | null> {
  const hash = createHash("sha256");
  try {
    const { size } = await stat(join(folder, path));
    if (size !== bytes) return `${path} has ${size} bytes instead of ${bytes}`;
    await pipeline(createReadStream(join(folder, path)), hash);
  } catch (error) {
    return readError(path, error).message;
  }
  return hash.digest("hex") === sha256 ? null : `${path} is not what was saved: its SHA-256 differs`;
}

/** A folder in which something is made, or goes on its way out. It says whose it is: see `removeLeftovers`. */
export async function workFolder(parent: string): Promise<string> {
  const folder = join(parent, `.tmp-${process.pid}-${randomUUID()}`);
  await writeJson(join(folder, "owner.json"), thisProcess());
  return folder;
}

/** Takes a folder away at once for every reader, then frees its space. */
export async function takeAway(folder: string, parent: string): Promise<void> {
  const aside = await workFolder(parent);
  await rename(folder, join(aside, "gone"));
  await rm(aside, { recursive: true, force: true });
}

/** Whether the process that a file names still lives; `pid` is asked about where the file is not there yet. */
async function isOwned(path: string, pid: number): Promise<boolean> {
  const owner = (await readJson(path).catch(() => null)) as Owner | null;
  return mayLive(owner ?? { ...thisProcess(), pid, started: null });
}

/**
 * Removes what processes that are gone left in a model's folder: work folders, and drafts of small files. The caller has the
 * model's lock, so that nobody is writing any of the latter. How many bytes that freed.
 */
export async function removeLeftovers(place: string): Promise<number> {
  let freed = 0;
  for (const name of await readdir(place)) {
    // A draft of the lock (see `takeLock`) names its process too.
    const [, kind, pid] = /^\.(tmp-|lock\.)(\d+)/.exec(name) ?? [];
    const path = join(place, name);
    if (pid === undefined || (await isOwned(join(path, "owner.json"), Number(pid)))) continue;
    if (kind === "tmp-") freed += await bytesBelow(path);
    await rm(path, { recursive: true, force: true });
  }
  for (const folder of ["aliases", "deleted", "uses"])
    for (const name of await readdir(join(place, folder)).catch(() => []))
      if (name.startsWith(".")) await rm(join(place, folder, name), { force: true });
  return freed;
}

export async function bytesBelow(folder: string): Promise<number> {
  const files = await filesOf(folder);
  const sizes = await Promise.all(files.map(({ from }) => stat(from).then(({ size }) => size)));
  return sizes.reduce((sum, size) => sum + size, 0);
}
