import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of kiln's package.json: the clone, or the installed package, whose code runs from `dist/`. */
export const packageRoot = rootAbove(path.dirname(fileURLToPath(import.meta.url)));

/** The version in kiln's package.json. */
export function packageVersion(): string {
  return JSON.parse(readFileSync(path.join(packageRoot, "package.json"), "utf8")).version;
}

function rootAbove(folder: string): string {
  if (existsSync(path.join(folder, "package.json"))) return folder;
  const above = path.dirname(folder);
  if (above === folder) throw new Error("kiln's files are incomplete: install the package again");
  return rootAbove(above);
}
