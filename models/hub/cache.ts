import { existsSync } from "node:fs";
import { copyFile, link, mkdir, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { atomicWriteFile, readJson, writeError, writeJson } from "../../core/platform/files.ts";
import type { Listing } from "./client.ts";
import { type HubFile, isCommit } from "./names.ts";

/**
 * What was pulled of one repository, in the layout of huggingface_hub, so that each finds what the other fetched:
 *
 *     models--ORG--NAME/blobs/HASH              the bytes of a file, once for all commits that have them
 *     models--ORG--NAME/snapshots/COMMIT/PATH   a link to them: a model's folder
 *     models--ORG--NAME/refs/REVISION           the commit that a branch or tag was when it was last pulled
 *     models--ORG--NAME/kiln/COMMIT.json        kiln's own: the hub's list of files, which a commit never changes
 */
export class RepositoryCache {
  readonly folder: string;

  constructor(cacheDir: string, repository: string) {
    this.folder = join(cacheDir, `models--${repository.replaceAll("/", "--")}`);
  }

  get lockPath(): string {
    return join(this.folder, "kiln", "lock");
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** Where the bytes of a file gather until all have come. */
  partial({ hash }: HubFile): string {
    return join(this.folder, "blobs", `${hash}.kiln-part`);
  }

  async makeFolders(): Promise<void> {
    const folder = join(this.folder, "blobs");
    await mkdir(folder, { recursive: true }).catch((error) => {
      throw writeError(folder, error);
    });
  }

  /** How many bytes of a file are here: all of them once it is complete. */
  async bytesOf(file: HubFile): Promise<number> {
    const sizes = await Promise.all([this.#blob(file), this.partial(file)].map(sizeOf));
    return sizes[0] === file.size ? file.size : Math.min(sizes[1] ?? 0, file.size);
  }

  async has(file: HubFile): Promise<boolean> {
    return (await sizeOf(this.#blob(file))) === file.size;
  }

  /** Makes a complete partial file the file's bytes. */
  async adopt(file: HubFile): Promise<void> {
    await rename(this.partial(file), this.#blob(file)).catch((error) => {
      throw writeError(this.#blob(file), error);
    });
  }

  /** Puts files whose bytes are here into the folder of a commit. */
  async link(commit: string, files: readonly HubFile[]): Promise<void> {
    for (const file of files) {
      const place = join(this.snapshot(commit), file.path);
      if ((await sizeOf(place)) === file.size) continue;
      await mkdir(dirname(place), { recursive: true });
      await linkOrCopy(this.#blob(file), place).catch((error) => {
        throw writeError(place, error);
      });
    }
  }

  /** The commit that a revision was when it was last pulled; null for one that never was. */
  async commitOf(revision: string): Promise<string | null> {
    if (isCommit(revision)) return revision;
    const text = await readFile(join(this.folder, "refs", revision), "utf8").catch(() => "");
    return isCommit(text.trim()) ? text.trim() : null;
  }

  async saveCommit(revision: string, commit: string): Promise<void> {
    if (!isCommit(revision)) await atomicWriteFile(join(this.folder, "refs", revision), commit);
  }

  /** The folder of a revision that was pulled, or null. */
  async find(revision: string): Promise<{ commit: string; folder: string } | null> {
    const commit = await this.commitOf(revision);
    if (commit === null || !existsSync(this.snapshot(commit))) return null;
    return { commit, folder: this.snapshot(commit) };
  }

  async listing(commit: string): Promise<Listing | null> {
    const path = this.#listPath(commit);
    return existsSync(path) ? ((await readJson(path)) as Listing) : null;
  }

  async saveListing(listing: Listing): Promise<void> {
    await writeJson(this.#listPath(listing.commit), listing);
  }

  #listPath(commit: string): string {
    return join(this.folder, "kiln", `${commit}.json`);
  }

  #blob({ hash }: HubFile): string {
    return join(this.folder, "blobs", hash);
  }
}

async function sizeOf(path: string): Promise<number | null> {
  return stat(path).then(
    ({ size }) => size,
    () => null,
  );
}

/** Windows lets few users make symbolic links, and not every file system has links at all. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  const draft = `${to}.${process.pid}.kiln-part`;
  try {
    await rm(draft, { force: true });
    await symlink(relative(dirname(to), from), draft)
      .catch(() => link(from, draft))
      .catch(() => copyFile(from, draft));
    await rename(draft, to);
  } finally {
    await rm(draft, { force: true });
  }
}
