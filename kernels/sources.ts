import { readFileSync } from "node:fs";

/** Reads a WGSL file below `kernels/`. A browser bundle replaces this module by a table of the files' text. */
export function readKernel(path: string): string {
  return readFileSync(new URL(`./${path}`, import.meta.url), "utf8");
}
