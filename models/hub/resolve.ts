import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { currentDirectory } from "../../core/platform/files.ts";
import { RepositoryCache } from "./cache.ts";
import { hubSettings, parseModelName } from "./names.ts";

/**
 * The folder or file of a model that a person names: a path, or else a model that was pulled (`org/name`, with
 * `@revision` for another than main). Asks nobody. What can be no model's name comes back as it is.
 * Errors: neither a path nor pulled (`file_missing`, names both); a pulled repository with several GGUF files.
 */
export async function resolveModel(given: string): Promise<string> {
  const isPath = existsSync(given) || (await currentDirectory(given).then(Boolean, () => false));
  const name = parseModelName(given);
  if (isPath || !name) return given;
  const { cacheDir } = hubSettings();
  const found = await new RepositoryCache(cacheDir, name.repository).find(name.revision);
  if (!found) {
    throw new KilnError(
      `${given} does not exist: there is no such folder below ${process.cwd()}, and no model of that name was pulled to ${cacheDir}; check the path, or run kiln pull ${given}`,
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
