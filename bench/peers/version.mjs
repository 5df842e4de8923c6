import { readFileSync } from "node:fs";

/** The installed version of a peer, from the package.json in its folder (many do not export it). */
export function installedVersion(name) {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8")).version;
}
