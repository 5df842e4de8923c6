import { existsSync, readFileSync } from "node:fs";

/** The installed version of a peer, from the package.json in its folder (many do not export it). */
export function installedVersion(name) {
  const places = ["..", "../.."].map(
    (up) => new URL(`${up}/node_modules/${name}/package.json`, import.meta.url),
  );
  return JSON.parse(readFileSync(places.find(existsSync), "utf8")).version;
}
