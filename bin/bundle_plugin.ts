import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Plugin } from "esbuild";

const kernels = fileURLToPath(new URL("../kernels/", import.meta.url));

/** An esbuild plugin that puts the text of the WGSL files into the bundle, so that nothing is read at run time. */
export function kernelsInside(): Plugin {
  return {
    name: "kiln-kernels",
    setup(build) {
      build.onLoad({ filter: /[\\/]sources\.ts$/ }, ({ path: file }) =>
        file === path.join(kernels, "sources.ts") ? { contents: kernelTable(), loader: "js" } : null,
      );
    },
  };
}

/** An esbuild plugin that puts a package into a bundle whose other packages stay outside; of its languages, English alone. */
export function inside(name: string): Plugin {
  return {
    name: `kiln-${name}-inside`,
    setup(build) {
      const file = fileURLToPath(import.meta.resolve(name));
      build.onResolve({ filter: new RegExp(`^${name}$`) }, () => ({ path: file }));
      // zod's fifty others are half of it, and every process would read them.
      build.onLoad({ filter: new RegExp(`[\\\\/]${name}[\\\\/].*[\\\\/]locales[\\\\/]index\\.js$`) }, () => ({
        contents: 'export { default as en } from "./en.js";',
      }));
    },
  };
}

/**
 * An esbuild plugin for pages, beside `kernelsInside`: native adapters stay out, and what only reads and writes files
 * (checkpoints, run folders) or needs a native package throws where a page calls it.
 */
export function withoutNode(): Plugin {
  return {
    name: "kiln-without-node",
    setup(build) {
      const namespace = "kiln-without-node";
      // These are behind import()s that a page never reaches.
      build.onResolve({ filter: /[\\/]\w+_node\.ts$/ }, () => ({ path: "empty", namespace }));
      build.onResolve({ filter: /^(node:.*|tokenizers|fastify)$/ }, ({ path: name }) => ({
        path: name,
        namespace,
        sideEffects: false,
      }));
      build.onLoad({ filter: /.*/, namespace }, async ({ path: name }) => ({
        contents: name === "empty" ? "export {};" : await absent(name),
      }));
    },
  };
}

/** The text of a module that stands for `kernels/sources.ts`: the same function over the files' text. */
function kernelTable(): string {
  const names = readdirSync(kernels, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".wgsl"))
    .map((name) => name.replaceAll("\\", "/"))
    .sort();
  const table = Object.fromEntries(
    names.map((name) => [name, readFileSync(path.join(kernels, name), "utf8")]),
  );
  return `const files = new Map(Object.entries(${JSON.stringify(table)}));
export function readKernel(path) {
  const text = files.get(path);
  if (text === undefined) throw new Error("no WGSL file is called " + path);
  return text;
}`;
}

/** A module with the exports of one that a page cannot have, which throw when called: code around them can be imported. */
async function absent(name: string): Promise<string> {
  const exported = Object.keys(await import(name)).filter((key) => /^\w+$/.test(key) && key !== "default");
  const message = JSON.stringify(`This needs ${name}, which is not available in a browser: run it in Node.`);
  return `function missing() { throw new Error(${message}); }
export { missing as default${exported.map((key) => `, missing as ${key}`).join("")} };`;
}
