import { randomUUID } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { KilnError, nearestName, usageError } from "../../core/errors.ts";
import {
  atomicWriteFile,
  readJson,
  syncDirectory,
  syncTree,
  writeError,
  writeJson,
} from "../../core/platform/files.ts";
import { mayLive, type Owner, thisProcess } from "../../core/platform/lock.ts";
import {
  bytesBelow,
  contentHash,
  copyModel,
  damageOf,
  removeLeftovers,
  takeAway,
  workFolder,
} from "./files.ts";
import { withLock } from "./lock.ts";
import { type Facts, type Manifest, readManifest } from "./manifest.ts";
import {
  checkAlias,
  checkName,
  parseReference,
  type Reference,
  registryFolder,
  versionName,
} from "./names.ts";

/** A version, and where its model is: a folder in Hugging Face or PEFT layout, or a GGUF file. */
export interface RegisteredVersion extends Manifest {
  path: string;
}

/** A model of the registry. */
export interface RegisteredModel {
  name: string;
  /** Oldest first. */
  versions: number[];
  aliases: Record<string, number>;
}

/**
 * Versions of models as files, which may be read and written by several processes at once:
 *
 *     NAME/VERSION/manifest.json   what is known of it; it never changes
 *     NAME/VERSION/model/          its files
 *     NAME/aliases/ALIAS           the number of the version that the alias stands for
 *     NAME/deleted/VERSION.json    of a version that was: no number comes twice
 *     NAME/uses/…json              who has a version in use: it is not deleted meanwhile
 *
 * A version appears and goes as a whole, and an alias stands for the old version or the new one at every moment, also when a
 * process is killed on the way.
 */
export class Registry {
  readonly folder: string;

  constructor(folder = registryFolder()) {
    this.folder = folder;
  }

  /** Whether a model of this name was ever added. */
  async has(name: string): Promise<boolean> {
    return (await this.#highest(name)) > 0;
  }

  /** Every model by name. */
  async list(): Promise<RegisteredModel[]> {
    const names = await entries(this.folder);
    const models = await Promise.all(
      names.filter((name) => parseReference(name)).map((name) => this.model(name)),
    );
    return models.filter(({ versions }) => versions.length > 0);
  }

  /** The versions and aliases of a model; none for one that does not exist. */
  async model(name: string): Promise<RegisteredModel> {
    const [names, gone, aliases] = await Promise.all(
      ["", "deleted", "aliases"].map((folder) => entries(this.#place(name, folder))),
    );
    const deleted = new Set(gone.map((file) => Number.parseInt(file, 10)));
    const versions = names
      .filter(isVersion)
      .map(Number)
      .filter((version) => !deleted.has(version));
    const known = await Promise.all(
      aliases.sort().map(async (alias) => [alias, await this.#aliased(name, alias)] as const),
    );
    return {
      name,
      versions: versions.sort((a, b) => a - b),
      aliases: Object.fromEntries(known.filter((entry): entry is [string, number] => entry[1] !== null)),
    };
  }

  /**
   * The version that `name@3`, `name@alias` or `name` stands for at this moment.
   * @throws KilnError (`version_missing`) that names what there is.
   */
  async find(reference: string): Promise<RegisteredVersion> {
    const { name, version: wanted } = referenceOf(reference);
    // The alias may move, and the version that it stood for be deleted, between the two reads.
    for (let tries = 0; tries < 20; tries++) {
      const version = await this.#number(name, wanted);
      if (version === null) break;
      const found = await this.#read(name, version);
      if (found) return found;
      if (typeof wanted === "number") break;
    }
    throw await this.#missing(reference);
  }

  async #number(name: string, version: Reference["version"]): Promise<number | null> {
    if (typeof version === "number") return version;
    if (version !== null) return this.#aliased(name, version);
    return (await this.#aliased(name, "prod")) ?? (await this.model(name)).versions.at(-1) ?? null;
  }

  async #read(name: string, version: number): Promise<RegisteredVersion | null> {
    const folder = this.#place(name, `${version}`);
    if (existsSync(this.#tombstone(name, version)) || !existsSync(folder)) return null;
    try {
      const manifest = await readManifest(join(folder, "manifest.json"));
      const [first] = manifest.files;
      const isFile = manifest.files.length === 1 && /\.gguf$/i.test(first.path);
      return { ...manifest, path: join(folder, "model", ...(isFile ? [first.path] : [])) };
    } catch (error) {
      // It went while it was read.
      if (!existsSync(folder)) return null;
      throw error;
    }
  }

  async #missing(reference: string): Promise<KilnError> {
    const { name, version } = referenceOf(reference);
    const { versions, aliases } = await this.model(name);
    const options = { code: "version_missing" };
    if (versions.length === 0) {
      const near = nearestName(
        name,
        (await this.list()).map((model) => model.name),
      );
      const hint = near ? `did you mean ${near}?` : `add one with kiln model add ${name} FOLDER`;
      return new KilnError(`the registry in ${this.folder} has no model ${name}; ${hint}`, options);
    }
    const known = [
      ...versions.map(String),
      ...Object.entries(aliases).map(([alias, n]) => `${alias} (${n})`),
    ];
    const deleted =
      typeof version === "number" && existsSync(this.#tombstone(name, version))
        ? " any more: it was deleted"
        : "";
    return new KilnError(`${reference} does not exist${deleted}; ${name} has ${known.join(", ")}`, options);
  }

  /** What an alias says; null without one. */
  async #aliased(name: string, alias: string): Promise<number | null> {
    const text = await readFile(this.#place(name, "aliases", alias), "utf8").catch(() => "");
    return /^\d+\n$/.test(text) ? Number(text) : null;
  }

  /**
   * Copies a model's folder or GGUF file to the next version of a name. A version appears whole or not at all.
   * @throws KilnError for a name that cannot be one, for a base or parent that does not exist, and where files cannot be read or
   * written.
   */
  async add(name: string, source: string, facts: Facts): Promise<RegisteredVersion> {
    const place = this.#place(checkName(name));
    const made = [facts.base, ...facts.parents].filter(
      (reference) => reference !== null && parseReference(reference)?.version,
    );
    const releases: (() => Promise<void>)[] = [];
    const work = await workFolder(place).catch((error) => Promise.reject(writeError(place, error)));
    try {
      // What it is made from stays until it is there to refer to it.
      for (const reference of new Set(made))
        if (await this.has(referenceOf(reference!).name))
          releases.push(await this.use(reference!, `adding ${name}`));
      const draft = join(work, "version");
      const files = await copyModel(source, join(draft, "model"));
      await syncTree(draft);
      const { packageVersion } = await import("../../core/platform/package_node.ts");
      const code_version = packageVersion();
      const rest = {
        name,
        ...facts,
        content_sha256: contentHash(files),
        files,
        created_at: new Date().toISOString(),
        code_version,
      };
      const version = await withLock(place, async () => {
        const next = (await this.#highest(name)) + 1;
        await writeJson(join(draft, "manifest.json"), { version: next, ...rest });
        await rename(draft, join(place, `${next}`));
        await syncDirectory(place);
        return next;
      });
      return (await this.#read(name, version))!;
    } catch (error) {
      throw writeError(place, error);
    } finally {
      for (const release of releases) await release();
      await rm(work, { recursive: true, force: true });
    }
  }

  /** The highest number that a version of this name ever had. */
  async #highest(name: string): Promise<number> {
    const names = [
      ...(await entries(this.#place(name))).filter(isVersion),
      ...(await entries(this.#place(name, "deleted"))),
    ];
    return Math.max(0, ...names.map((each) => Number.parseInt(each, 10)));
  }

  /**
   * Lets an alias stand for a version from now on; null takes the alias away. What it stood for before, or null.
   * @throws KilnError for a version that does not exist and a name that cannot be an alias.
   */
  async alias(name: string, alias: string, version: number | null): Promise<number | null> {
    const place = this.#place(checkName(name), "aliases", checkAlias(alias));
    if (!(await this.has(name))) throw await this.#missing(name);
    return withLock(this.#place(name), async () => {
      const before = await this.#aliased(name, alias);
      if (version === null) await rm(place, { force: true });
      else if (await this.#read(name, version)) await atomicWriteFile(place, `${version}\n`);
      else throw await this.#missing(versionName(name, version));
      return before;
    });
  }

  /**
   * Says that a version is in use, so that it is not deleted, until the returned function is called or this process ends. What
   * outlives the process, such as an experiment, `lasts`: `release` ends it.
   * @param by what messages call the user, such as `kiln serve (pid 12)`.
   * @throws KilnError for a version that does not exist.
   */
  async use(reference: string, by: string, lasts = false): Promise<() => Promise<void>> {
    const { name, version } = await this.find(reference);
    const file = this.#place(name, "uses", `${version}-${randomUUID()}.json`);
    await withLock(this.#place(name), async () => {
      if (!(await this.#read(name, version))) throw await this.#missing(versionName(name, version));
      await writeJson(file, { by, ...(lasts ? { lasts } : thisProcess()) });
    });
    return () => rm(file, { force: true });
  }

  /** Ends what `use` began for one that lasts. */
  async release(reference: string, by: string): Promise<void> {
    const { name, version } = await this.find(reference);
    for (const use of await this.#uses(name, version)) if (use.by === by) rmSync(use.file, { force: true });
  }

  /** Who has a version in use; files of processes that are gone say nothing, and go. */
  async #uses(name: string, version: number): Promise<{ file: string; by: string }[]> {
    const found: { file: string; by: string }[] = [];
    for (const entry of await entries(this.#place(name, "uses"))) {
      if (!entry.startsWith(`${version}-`)) continue;
      const file = this.#place(name, "uses", entry);
      const use = (await readJson(file).catch(() => null)) as
        | ({ by: string; lasts?: boolean } & Owner)
        | null;
      if (use !== null && (use.lasts || mayLive(use))) found.push({ file, by: use.by });
      else await rm(file, { force: true });
    }
    return found;
  }

  /** What refers to a version: aliases, adapters of it, and who has it in use, in words. */
  async referrers(name: string, version: number): Promise<string[]> {
    const { aliases } = await this.model(name);
    const own = Object.keys(aliases).filter((alias) => aliases[alias] === version);
    const adapters: string[] = [];
    for (const { name: other, versions } of await this.list())
      for (const number of versions)
        if ((await this.#read(other, number))?.base === versionName(name, version))
          adapters.push(versionName(other, number));
    const uses = await this.#uses(name, version);
    return [
      ...own.map((alias) => `the alias ${alias}`),
      ...adapters.map((child) => `its adapter ${child}`),
      ...uses.map(({ by }) => by),
    ];
  }

  /**
   * Deletes a version; its number is not given again.
   * @throws KilnError (`version_in_use`) that names all that refers to it; (`version_missing`).
   */
  async remove(name: string, version: number): Promise<void> {
    if (!(await this.#read(name, version))) throw await this.#missing(versionName(name, version));
    await withLock(this.#place(name), async () => {
      const found = await this.#read(name, version);
      if (!found) throw await this.#missing(versionName(name, version));
      const referrers = await this.referrers(name, version);
      if (referrers.length > 0) {
        throw new KilnError(
          `${versionName(name, version)} is referred to by ${referrers.join(", ")}: end that first`,
          { code: "version_in_use" },
        );
      }
      const { content_sha256, created_at } = found;
      await writeJson(this.#tombstone(name, version), {
        version,
        content_sha256,
        created_at,
        deleted_at: new Date().toISOString(),
      });
      await takeAway(this.#place(name, `${version}`), this.#place(name));
    });
  }

  /** What is wrong with the files of a version, in words: nothing where all are as they were added. */
  async verify(reference: string): Promise<string[]> {
    const { name, version, files } = await this.find(reference);
    const folder = this.#place(name, `${version}`, "model");
    const damages = await Promise.all(files.map((file) => damageOf(folder, file)));
    // One that was deleted meanwhile is not damaged.
    if (!(await this.#read(name, version))) throw await this.#missing(versionName(name, version));
    return damages.filter((damage) => damage !== null);
  }

  /** Removes what killed processes left, of every model; the bytes that this freed. */
  async collect(): Promise<number> {
    let freed = 0;
    for (const name of await entries(this.folder)) {
      const place = this.#place(name);
      if (!parseReference(name)) continue;
      freed += await withLock(place, async () => {
        let bytes = await removeLeftovers(place);
        for (const entry of (await entries(place)).filter(isVersion)) {
          if (!existsSync(this.#tombstone(name, Number(entry)))) continue;
          bytes += await bytesBelow(join(place, entry));
          await takeAway(join(place, entry), place);
        }
        for (const use of await entries(this.#place(name, "uses")))
          await this.#uses(name, Number.parseInt(use, 10));
        return bytes;
      });
    }
    return freed;
  }

  #tombstone(name: string, version: number): string {
    return this.#place(name, "deleted", `${version}.json`);
  }

  #place(name: string, ...below: string[]): string {
    return join(this.folder, name, ...below);
  }
}

const isVersion = (text: string) => /^[1-9]\d*$/.test(text);

function referenceOf(text: string): Reference {
  const reference = parseReference(text);
  if (reference) return reference;
  throw usageError(
    `${JSON.stringify(text.slice(0, 200))} names no version: give NAME, NAME@3 or NAME@ALIAS`,
    "name_invalid",
  );
}

/** The names in a folder but hidden ones; none where there is no such folder. */
async function entries(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
  return names.filter((name) => !name.startsWith("."));
}
