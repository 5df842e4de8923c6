import { readdirSync, readFileSync } from "node:fs";
import { createRequire, isBuiltin } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Plugin } from "esbuild";

const kernels = fileURLToPath(new URL("../kernels/", import.meta.url));
const pageTokenizers = fileURLToPath(new URL("../tokenizer/library_page.ts", import.meta.url));

/**
 * An esbuild plugin that puts the text of the WGSL files into the bundle, so that nothing is read at run time; with `bare`
 * without comments, a third of it; without the files that match `unused`.
 */
export function kernelsInside({ bare = false, unused = /^$/ } = {}): Plugin {
  return {
    name: "kiln-kernels",
    setup(build) {
      build.onLoad({ filter: /[\\/]sources\.ts$/ }, ({ path: file }) =>
        file === path.join(kernels, "sources.ts")
          ? { contents: kernelTable(bare, unused), loader: "js" }
          : null,
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
 * An esbuild plugin that puts packages, and all that these need, into a bundle whose other packages stay outside: a server would
 * find and read 250 small files. CommonJS among them asks for node's modules by a `require` that the bundle has to define.
 */
export function packagesInside(names: readonly string[]): Plugin {
  return {
    name: "kiln-packages-inside",
    setup(build) {
      build.onResolve({ filter: /^[^./]/ }, ({ path: name, importer, kind, resolveDir }) => {
        const isNeeded = names.includes(name) || importer.includes(`${path.sep}node_modules${path.sep}`);
        if (!isNeeded || kind === "entry-point") return undefined;
        if (isBuiltin(name)) return { path: name, external: true };
        try {
          return { path: createRequire(path.join(resolveDir, "importer.js")).resolve(name) };
        } catch {
          // An optional one that is not there: its importer sees to that.
          return { path: name, external: true };
        }
      });
    },
  };
}

/**
 * An esbuild plugin for pages, beside `kernelsInside`: native adapters stay out, and what only reads and writes files
 * (checkpoints, run folders) throws where a page calls it; for the native tokenizers stands a library in JavaScript.
 */
export function withoutNode(): Plugin {
  return {
    name: "kiln-without-node",
    setup(build) {
      const namespace = "kiln-without-node";
      build.onResolve({ filter: /^tokenizers$/ }, () => ({ path: pageTokenizers }));
      // These are behind import()s that a page never reaches.
      build.onResolve({ filter: /[\\/]\w+_node\.ts$/ }, () => ({ path: "empty", namespace }));
      build.onResolve({ filter: /^(node:.*|fastify)$/ }, ({ path: name }) => ({
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

/**
 * An esbuild plugin for small pages, beside `inside("zod")`: what is not used of kiln's upper rooms and of zod is left out. Kernels
 * register themselves and stay, but for those whose files match `unused`: their functions throw.
 */
export function withoutUnused(unused = /^$/): Plugin {
  const root = path.join(kernels, "..");
  const rooms = /^(models|nn|tokenizer|train)\//;
  return {
    name: "kiln-without-unused",
    setup(build) {
      build.onResolve({ filter: /^kiln\/\w+$/ }, ({ path: name }) => ({
        path: path.join(root, name.replace("kiln", ""), "index.ts"),
        sideEffects: false,
      }));
      const isUpper = (file: string) => rooms.test(path.relative(root, file).replaceAll("\\", "/"));
      build.onResolve({ filter: /./ }, ({ path: name, resolveDir, importer, kind }) => {
        // What is loaded on demand there reads files; a bundler keeps it even where nothing asks for it.
        if (kind === "dynamic-import" && isUpper(importer)) return { path: name, external: true };
        const file = path.resolve(resolveDir, name);
        return /^\.{1,2}\/.*\.(ts|json)$/.test(name) && isUpper(file)
          ? { path: file, sideEffects: false }
          : null;
      });
      // Of the object `z` a bundler keeps every member, of a namespace those that are named.
      build.onLoad(
        { filter: /[\\/](core|kernels|models|nn|tokenizer|train)[\\/].*\.ts$/ },
        ({ path: file }) => {
          const text = readFileSync(file, "utf8");
          if (!file.startsWith(root) || !text.includes(zodImport)) return null;
          return { contents: text.replace(zodImport, 'import * as z from "zod";'), loader: "ts" };
        },
      );
      build.onLoad({ filter: /[\\/]kernels[\\/].*\.ts$/ }, async ({ path: file }) => {
        const name = path.relative(kernels, file).replaceAll("\\", "/");
        return unused.test(name) ? { contents: await absent(file) } : null;
      });
      // Every schema can describe itself as JSON Schema, which no page asks for.
      build.onLoad(
        { filter: /[\\/]zod[\\/]v4[\\/]core[\\/](to-json-schema|json-schema-processors)\.js$/ },
        async ({ path: file }) => ({
          contents: await absent(file),
        }),
      );
    },
  };
}

/** The one way in which kiln imports zod. */
const zodImport = 'import { z } from "zod";';

/** The text of a module that stands for `kernels/sources.ts`: the same function over the files' text. */
function kernelTable(bare: boolean, unused: RegExp): string {
  const read = (name: string) => readFileSync(path.join(kernels, name), "utf8");
  const names = readdirSync(kernels, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".wgsl"))
    .map((name) => name.replaceAll("\\", "/"))
    .filter((name) => !unused.test(name))
    .sort();
  const table = Object.fromEntries(
    names.map((name) => [name, bare ? withoutComments(read(name)) : read(name)]),
  );
  return `const files = new Map(Object.entries(${JSON.stringify(table)}));
export function readKernel(path) {
  const text = files.get(path);
  if (text === undefined) throw new Error("no WGSL file is called " + path);
  return text;
}`;
}

/** Comments of WGSL that end with their line; it has no strings that could look like one. */
const withoutComments = (text: string) => text.replace(/^ *\/\/.*\n/gm, "").replace(/ *\/\/.*$/gm, "");

/** A module with the exports of one that a page cannot have, or does not want, which throw when called: code around them can be imported. */
async function absent(name: string): Promise<string> {
  const exported = Object.keys(await import(name)).filter((key) => /^\w+$/.test(key) && key !== "default");
  const what = path.isAbsolute(name) ? path.basename(name) : name;
  const message = JSON.stringify(`This needs ${what}, which is not in this page: run it in Node.`);
  return `function missing() { throw new Error(${message}); }
export { missing as default${exported.map((key) => `, missing as ${key}`).join("")} };`;
}
