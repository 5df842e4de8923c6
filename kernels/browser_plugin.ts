import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Plugin } from "esbuild";

/**
 * An esbuild plugin that makes kiln run in a page: the WGSL files become a table inside the bundle, the opening of native
 * adapters stays out, and what only reads and writes files (checkpoints, run folders) throws where a page calls it.
 */
export function browserPlugin(): Plugin {
  const sources = fileURLToPath(new URL("./sources.ts", import.meta.url));
  return {
    name: "kiln-browser",
    setup(build) {
      build.onLoad({ filter: /[\\/]sources\.ts$/ }, ({ path }) =>
        path === sources ? { contents: kernelTable(), loader: "js" } : null,
      );
      // Behind import()s that a page never reaches.
      build.onResolve({ filter: /[\\/]\w+_node\.ts$/ }, ({ path }) => ({ path, external: true }));
      build.onResolve({ filter: /^node:/ }, ({ path }) => ({
        path,
        namespace: "kiln-no-node",
        sideEffects: false,
      }));
      build.onLoad({ filter: /.*/, namespace: "kiln-no-node" }, async ({ path }) => ({
        contents: await absent(path),
      }));
    },
  };
}

/** The text of a module that stands for `sources.ts`: the same function over the files' text. */
export function kernelTable(): string {
  const folder = new URL("./", import.meta.url);
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".wgsl"))
    .map((name) => name.replaceAll("\\", "/"))
    .sort();
  const table = Object.fromEntries(names.map((name) => [name, readFileSync(new URL(name, folder), "utf8")]));
  return `const files = new Map(Object.entries(${JSON.stringify(table)}));
export function readKernel(path) {
  const text = files.get(path);
  if (text === undefined) throw new Error("no WGSL file is called " + path);
  return text;
}`;
}

/** A module with the exports of one of Node's that throw when called, so that code around file access can be imported. */
async function absent(name: string): Promise<string> {
  const exported = Object.keys(await import(name)).filter((key) => /^\w+$/.test(key) && key !== "default");
  const message = JSON.stringify(`${name} is not available in a browser`);
  return `function missing() { throw new Error(${message}); }
export { missing as default${exported.map((key) => `, missing as ${key}`).join("")} };`;
}
