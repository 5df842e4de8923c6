import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of kiln's package.json: the clone, or the installed package, whose code runs from `dist/`. */
export const packageRoot = rootAbove(path.dirname(fileURLToPath(import.meta.url)));

function rootAbove(folder: string): string {
  if (existsSync(path.join(folder, "package.json"))) return folder;
  const above = path.dirname(folder);
  if (above === folder) throw new Error("kiln's files are incomplete: install the package again");
  return rootAbove(above);
}
