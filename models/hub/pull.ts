import { statfs } from "node:fs/promises";
import { KilnError, usageError } from "../../core/errors.ts";
import { takeLock } from "../../core/platform/lock.ts";
import { bytes, duration, type ProgressLine } from "../../core/platform/progress_line.ts";
import { RepositoryCache } from "./cache.ts";
import { type ClientOptions, HubClient, type Listing } from "./client.ts";
import { download } from "./download.ts";
import { type HubFile, hubSettings, isCommit, type ModelName, parseModelName } from "./names.ts";
import { TemporaryFault, throwIfStopped } from "./patience.ts";
import { selectPaths } from "./select.ts";

export interface PullOptions extends ClientOptions {
  /** Patterns of the files to fetch, instead of those that kiln needs. */
  include?: readonly string[];
  /** Bytes to fetch at most; 50 GiB by default. */
  maxBytes?: number;
  say?: (line: string) => void;
  progress?: ProgressLine;
}

export interface PullResult {
  repository: string;
  revision: string;
  commit: string;
  /** The model's folder. */
  folder: string;
  /** Bytes of all its files that were asked for, and how many of them this call fetched. */
  bytes: number;
  fetched: number;
  files: HubFile[];
}

/**
 * Fetches a model from the hub into the cache that huggingface_hub uses, or only what of it is not there yet, and gives its
 * folder. Settings come from the environment (`hubSettings`). No request is made for a commit hash whose files are here,
 * and none at all with `HF_HUB_OFFLINE`. Two processes that pull the same repository take turns.
 *
 * @param name `org/name`, with `@revision` for another branch, tag or commit than main
 * Errors (KilnError): a name that is none; what the hub refuses; a hub that cannot be reached, unless the model was pulled
 * before; too little room; wrong checksums; a stop (exit code 130). What has come is kept, except damaged bytes.
 */
export async function pullModel(name: string, options: PullOptions = {}): Promise<PullResult> {
  const parsed = parseModelName(name);
  if (!parsed) {
    throw usageError(`${name} is no model's name: give org/name, or org/name@revision`);
  }
  const settings = hubSettings();
  const pull = new Pull(parsed, settings, options);
  const release = await pull.waitForTurn();
  try {
    return await pull.run();
  } finally {
    release();
  }
}

class Pull {
  readonly #name: ModelName;
  readonly #settings: ReturnType<typeof hubSettings>;
  readonly #options: PullOptions;
  readonly #client: HubClient;
  readonly #cache: RepositoryCache;

  constructor(name: ModelName, settings: ReturnType<typeof hubSettings>, options: PullOptions) {
    this.#name = name;
    this.#settings = settings;
    this.#options = options;
    this.#client = new HubClient(settings, options);
    this.#cache = new RepositoryCache(settings.cacheDir, name.repository);
  }

  async waitForTurn(): Promise<() => void> {
    const { repository } = this.#name;
    const { say, signal } = this.#options;
    for (let isFirst = true; ; isFirst = false) {
      throwIfStopped(signal);
      try {
        return takeLock(this.#cache.lockPath, (owner, remedy) => {
          const message = `another process (${owner}) is pulling ${repository}`;
          return new KilnError(remedy ? `${message}: ${remedy}` : message, {
            code: remedy ? "error" : "wait",
          });
        });
      } catch (error) {
        if ((error as KilnError).code !== "wait") throw error;
        if (isFirst) say?.(`${(error as KilnError).message}; waiting for it`);
        await this.#client.clock.sleep(250, signal);
      }
    }
  }

  async run(): Promise<PullResult> {
    const listing = await this.#findListing();
    const { commit } = listing;
    const { repository, revision } = this.#name;
    const paths = listing.files.map(({ path }) => path);
    const wanted = new Set(selectPaths(paths, repository, this.#options.include));
    const files = await this.#complete(listing, wanted);
    await this.#cache.makeFolders();
    const fetched = await this.#fetch(commit, files);
    await this.#cache.link(commit, files);
    await this.#cache.saveCommit(revision, commit);
    const total = files.reduce((sum, { size }) => sum + size, 0);
    const folder = this.#cache.snapshot(commit);
    return { repository, revision, commit, folder, bytes: total, fetched, files };
  }

  /** The list of files: of a commit as it was told before, else from the hub, else of the last pull where it is not to be had. */
  async #findListing(): Promise<Listing> {
    const { revision, repository } = this.#name;
    const commit = await this.#cache.commitOf(revision);
    const known = commit && (await this.#cache.listing(commit));
    if (known && (isCommit(revision) || this.#settings.offline)) return known;
    if (this.#settings.offline) {
      throw this.#unreachable("HF_HUB_OFFLINE is set, and it was not pulled before", "unset HF_HUB_OFFLINE");
    }
    try {
      const listing = await this.#client.list(this.#name);
      await this.#cache.saveListing(listing);
      return listing;
    } catch (error) {
      if (!(error instanceof TemporaryFault)) throw error;
      const { endpoint } = this.#settings;
      if (!known)
        throw this.#unreachable(`${endpoint} cannot be reached (${error.message})`, "check the connection");
      this.#options.say?.(
        `${endpoint} cannot be reached (${error.message}): ${repository} as it was pulled last`,
      );
      return known;
    }
  }

  #unreachable(why: string, remedy: string): KilnError {
    const { repository } = this.#name;
    return new KilnError(
      `cannot pull ${repository}: ${why}; ${remedy}, or put its config.json, model.safetensors and tokenizer.json into a folder by hand and name that folder instead`,
      { code: "hub_unreachable" },
    );
  }

  /** The chosen files with their sizes and hashes. */
  async #complete(listing: Listing, wanted: ReadonlySet<string>): Promise<HubFile[]> {
    let isNew = false;
    for (const [i, { path, size, hash }] of listing.files.entries()) {
      if (!wanted.has(path) || (size !== undefined && hash !== undefined)) continue;
      listing.files[i] = await this.#reached(() => this.#client.describe(this.#name, listing.commit, path));
      isNew = true;
    }
    if (isNew) await this.#cache.saveListing(listing);
    return listing.files.filter(({ path }) => wanted.has(path)) as HubFile[];
  }

  /** Fetches what is missing; returns how many bytes came. */
  async #fetch(commit: string, files: readonly HubFile[]): Promise<number> {
    const { progress } = this.#options;
    const total = files.reduce((sum, { size }) => sum + size, 0);
    let before = 0;
    for (const file of files) before += await this.#cache.bytesOf(file);
    const missing: HubFile[] = [];
    for (const file of files) if (!(await this.#cache.has(file))) missing.push(file);
    if (missing.length === 0) return 0;
    await this.#assertRoom(total - before);
    const start = performance.now();
    let done = total - missing.reduce((sum, { size }) => sum + size, 0);
    let here = before;
    try {
      for (const file of missing) {
        const onChange = (length: number) => {
          here = done + length;
          const rate = (here - before) / ((performance.now() - start) / 1000);
          const eta = duration((total - here) / rate);
          progress?.update(
            here / total,
            `${bytes(here)} of ${bytes(total)}  ${bytes(rate)}/s  ETA ${eta}  ${file.path}`,
          );
        };
        const task = { name: this.#name, commit, file, partial: this.#cache.partial(file), onChange };
        await this.#reached(() => download(this.#client, task), file);
        await this.#cache.adopt(file);
        done += file.size;
      }
    } finally {
      progress?.end();
    }
    return total - before;
  }

  /** Names what failed where trying again did not help. */
  async #reached<T>(work: () => Promise<T>, file?: HubFile): Promise<T> {
    if (this.#settings.offline) {
      throw this.#unreachable(
        `HF_HUB_OFFLINE is set, and ${file?.path ?? "a part of it"} was not pulled before`,
        "unset HF_HUB_OFFLINE",
      );
    }
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof TemporaryFault)) throw error;
      const kept = file ? `; ${bytes(await this.#cache.bytesOf(file))} of ${file.path} are kept` : "";
      throw new KilnError(
        `${this.#settings.endpoint} does not answer as it should (${error.message})${kept}: check the connection and run the same command again, which goes on from there`,
        { code: "hub_unreachable" },
      );
    }
  }

  async #assertRoom(needed: number): Promise<void> {
    const { maxBytes = 50 * 2 ** 30 } = this.#options;
    const { cacheDir } = this.#settings;
    if (needed > maxBytes) {
      throw new KilnError(
        `${this.#name.repository} needs ${bytes(needed)}, more than the limit of ${bytes(maxBytes)}: raise --max-gib, or choose files with --include`,
        { code: "hub_too_large" },
      );
    }
    // Some file systems do not say.
    const disk = await statfs(this.#cache.folder).catch(() => null);
    const free = disk ? disk.bavail * disk.bsize : Number.POSITIVE_INFINITY;
    if (needed + 2 ** 26 <= free) return;
    throw new KilnError(
      `${this.#name.repository} needs ${bytes(needed)}, but the disk of ${cacheDir} has ${bytes(free)} left: free some, or set HF_HUB_CACHE to a folder on another disk`,
      { code: "disk_full" },
    );
  }
}
