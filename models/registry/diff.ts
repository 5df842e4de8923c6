import { isDeepStrictEqual } from "node:util";
import { isObject } from "../../core/platform/files.ts";
import type { Manifest } from "./manifest.ts";

/** A value that two versions have differently, by its dotted name; absent where a version has none. */
export interface Difference {
  name: string;
  a?: unknown;
  b?: unknown;
}

/** What differs between two versions, by name: of their settings, metrics, signatures, data, origins and files. */
export function diffVersions(a: Manifest, b: Manifest): Difference[] {
  const [before, after] = [a, b].map((manifest) => new Map(leaves(comparable(manifest))));
  const names = [...new Set([...before.keys(), ...after.keys()])].sort();
  return names.flatMap((name) => {
    const [from, to] = [before.get(name), after.get(name)];
    if (isDeepStrictEqual(from, to)) return [];
    return [{ name, ...(before.has(name) && { a: from }), ...(after.has(name) && { b: to }) }];
  });
}

/** What can be compared: not the number or the time, which always differ. */
function comparable({
  files,
  kind,
  base,
  parents,
  data_sha256,
  config,
  metrics,
  signature,
  code_version,
}: Manifest) {
  const content = Object.fromEntries(files.map(({ path, sha256 }) => [path, sha256]));
  return { kind, base, parents, data_sha256, code_version, config, metrics, signature, files: content };
}

/** Values inside groups of keys. */
function leaves(value: object, prefix = ""): [name: string, value: unknown][] {
  return Object.entries(value).flatMap(([key, inner]) => {
    const name = `${prefix}${key}`;
    if (isObject(inner)) return leaves(inner, `${name}.`);
    return inner === null || inner === undefined ? [] : [[name, inner] as [string, unknown]];
  });
}
