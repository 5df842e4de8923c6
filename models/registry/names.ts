import { join, relative, resolve, sep } from "node:path";
import { usageError } from "../../core/errors.ts";
import { environmentVariable } from "../../core/platform/environment.ts";

/** What a person calls a version: `name@3`, `name@alias`, or `name` alone, which is `name@prod`, else the newest. */
export interface Reference {
  name: string;
  /** A number, an alias, or null. */
  version: number | string | null;
}

/** Where the registry is: `KILN_REGISTRY`, else `kiln-data/registry` below the current folder. */
export const registryFolder = (): string =>
  resolve(environmentVariable("KILN_REGISTRY") || join("kiln-data", "registry"));

const isName = (text: string) => /^[a-z\d][\w.-]{0,95}$/i.test(text) && !text.includes("..");
// An alias begins with a letter, so that none is taken for a number.
const isAlias = (text: string) => /^[a-z]/i.test(text) && isName(text);

/** Null for a text that cannot be one. */
export function parseReference(text: string): Reference | null {
  const [name, version, ...more] = text.split("@");
  if (!isName(name) || more.length > 0) return null;
  if (version === undefined) return { name, version: null };
  if (/^[1-9]\d{0,8}$/.test(version)) return { name, version: Number(version) };
  return isAlias(version) ? { name, version } : null;
}

/** @throws KilnError (`name_invalid`). */
export function checkName(name: string): string {
  if (isName(name)) return name;
  throw usageError(
    `${JSON.stringify(name.slice(0, 200))} is no name of a model: letters, digits, ".", "_" and "-", at most 96`,
    "name_invalid",
  );
}

/** @throws KilnError (`name_invalid`). */
export function checkAlias(alias: string): string {
  if (isAlias(alias)) return alias;
  throw usageError(
    `${JSON.stringify(alias.slice(0, 200))} is no alias: a letter, then letters, digits, ".", "_" and "-", at most 96`,
    "name_invalid",
  );
}

export const versionName = (name: string, version: number) => `${name}@${version}`;

/** The version, as `name@3`, in whose folder of the registry a path is; null for any other path. */
export function versionOfPath(path: string, folder = registryFolder()): string | null {
  const [name, version, ...below] = relative(folder, resolve(path)).split(sep);
  return isName(name) && /^[1-9]\d*$/.test(version ?? "") && below.length > 0
    ? versionName(name, Number(version))
    : null;
}
