import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { currentDirectory, isObject, readJson } from "../../core/platform/files.ts";
import { parseReference } from "../registry/names.ts";
import { type RegisteredVersion, Registry } from "../registry/registry.ts";
import { RepositoryCache } from "./cache.ts";
import { hubSettings, parseModelName } from "./names.ts";

/** The model that a run left in its folder when it finished; of an adapter, the base with it merged. */
export const modelInRun = (folder: string): string | undefined =>
  ["merged", "model"].map((name) => join(folder, name)).find((path) => existsSync(join(path, "config.json")));

/** `path`, or the finished model of the run whose folder it is. Errors: the run has not finished (`file_missing`). */
export async function modelAt(path: string): Promise<string> {
  const file = join(path, "config.json");
  const config = existsSync(file) ? await readJson(file) : null;
  // A run's config.json holds its settings, a model's the sizes.
  if (!isObject(config) || config.out_dir === undefined) return path;
  const model = modelInRun(path);
  if (model) return model;
  throw new KilnError(
    `${path} is the folder of a run that has not finished, so it holds no model yet; go on with the run: kiln train RECIPE --out ${path} --resume`,
    { code: "file_missing" },
  );
}

/** The folder or file of the model that a person names: see `findModel` and, for a run's folder, `modelAt`. */
export const resolveModel = async (given: string): Promise<string> => modelAt(await findModel(given));

/**
 * The path that a person names: itself, or else the place of a version in the registry (`name`, `name@3`, `name@alias`), or of a
 * model that was pulled (`org/name`, with `@revision` for another than main). Asks nobody. What can be no model's name comes back
 * as it is.
 * Errors: none of them (`file_missing`, names all); a version that does not exist; a pulled repository with several GGUF files.
 */
export async function findModel(given: string): Promise<string> {
  const isPath = existsSync(given) || (await currentDirectory(given).then(Boolean, () => false));
  const name = parseModelName(given);
  if (isPath || !name) return given;
  const version = await registeredVersion(given);
  if (version) return version.path;
  const { cacheDir } = hubSettings();
  const found = await new RepositoryCache(cacheDir, name.repository).find(name.revision);
  if (!found) {
    throw new KilnError(
      `${given} does not exist: there is no such folder below ${process.cwd()}, no model of that name in the registry, and none was pulled to ${cacheDir}; check the path, or run kiln pull ${given}`,
      { code: "file_missing" },
    );
  }
  if (existsSync(join(found.folder, "config.json"))) return found.folder;
  const ggufs = (await readdir(found.folder)).filter((file) => /\.gguf$/i.test(file));
  if (ggufs.length === 0) return found.folder;
  if (ggufs.length === 1) return join(found.folder, ggufs[0]);
  throw new KilnError(
    `${given} has several models, name one of them: ${ggufs.map((file) => join(found.folder, file)).join(", ")}`,
  );
}

/** The version that a text names, if the registry has a model of that name. @throws KilnError for a version that it lacks. */
export async function registeredVersion(given: string): Promise<RegisteredVersion | null> {
  const reference = parseReference(given);
  const registry = new Registry();
  return reference && (await registry.has(reference.name)) ? registry.find(given) : null;
}
