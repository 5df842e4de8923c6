// `npm run build`: dist/ with kiln as JavaScript for Node, in dist/browser/ for pages, its
// declarations in dist/types/, the chat page in dist/page/ and the playground in dist/playground/. Without --package only what bin/load.mjs runs, in 2 s and
// beside what was there: a server that still runs from it goes on finding its modules.
// The entry points of each share their chunks, so that a Tensor of `kiln` is one of `kiln/nn`.
import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build } from "esbuild";
import type ts from "typescript";
import { buildPage } from "../serve/page/build.ts";
import { inside, kernelsInside, packagesInside, withoutNode } from "./bundle_plugin.ts";
import { buildPlayground } from "./playground.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const dist = path.join(root, "dist");
const start = new Date();

/** The modules that package.json exports. */
const doors = ["index", "nn/index", "models/index", "train/index", "tokenizer/index", "serve/index"];
/** Those that a page can have: the server needs sockets and threads. */
const pageDoors = doors.slice(0, 5);

const stamp = path.join(dist, "built");
const isPackage = process.argv.includes("--package");
rmSync(isPackage ? dist : stamp, { recursive: true, force: true });
const forNode: BuildOptions = {
  outdir: dist,
  platform: "node",
  target: "node20",
  packages: "external",
  // zod is 80 files, which take 50 ms to find and read; the others together 250.
  plugins: [
    kernelsInside(),
    inside("zod"),
    packagesInside(["commander", "fastify", "@fastify/websocket", "prom-client", "@huggingface/jinja"]),
  ],
  banner: {
    js: 'import { createRequire as bannerRequire } from "node:module"; const require = bannerRequire(import.meta.url);',
  },
};
const engines = "serve/process/main";
const modules = new Set([...doors, ...loadedByName()]);
modules.delete(engines);
await bundle([...modules], forNode);
// A server waits for this process, and one file is read sooner than sixty.
await bundle([engines], { ...forNode, splitting: false });
await buildPage(path.join(dist, "page"));
await buildPlayground(path.join(dist, "playground"));
if (isPackage) {
  await bundle(pageDoors, {
    outdir: path.join(dist, "browser"),
    target: "es2022",
    plugins: [kernelsInside(), withoutNode()],
  });
  await declare(doors);
}
forgetOld(path.join(dist, "chunks"));
// bin/load.mjs runs what is built where no source is newer than this file.
writeFileSync(stamp, "");
utimesSync(stamp, start, start);

/** A day on, no server that runs from an earlier build is likely to ask for another of its chunks. */
function forgetOld(folder: string): void {
  for (const name of readdirSync(folder)) {
    const file = path.join(folder, name);
    if (start.getTime() - statSync(file).mtimeMs > 86_400_000) rmSync(file);
  }
}

async function bundle(modules: readonly string[], options: BuildOptions): Promise<void> {
  await build({
    entryPoints: modules.map((name) => path.join(root, `${name}.ts`)),
    outbase: root,
    chunkNames: "chunks/[name]-[hash]",
    bundle: true,
    splitting: true,
    format: "esm",
    logLevel: "warning",
    ...options,
  });
}

/** What scripts of the package `load("…")`: the command, and modules that run in processes of their own. */
function loadedByName(): string[] {
  const scripts = ["bin", "bench"].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".mjs") && !name.includes("node_modules"))
      .map((name) => readFileSync(path.join(root, folder, name), "utf8")),
  );
  return scripts.flatMap((text) => [...text.matchAll(/\bload\("([^"]+)"\)/g)].map(([, name]) => name!));
}

/** Writes the declarations of some modules and all that they import. */
async function declare(modules: readonly string[]): Promise<void> {
  const { default: ts } = await import("typescript");
  const host = { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => {} };
  const config = ts.getParsedCommandLineOfConfigFile(path.join(root, "tsconfig.json"), {}, host)!;
  const program = ts.createProgram(
    modules.map((name) => path.join(root, `${name}.ts`)),
    {
      ...config.options,
      noEmit: false,
      declaration: true,
      emitDeclarationOnly: true,
      rootDir: root,
      outDir: path.join(dist, "types"),
    },
  );
  const write: ts.WriteFileCallback = (file, text) =>
    // Beside a declaration is no .ts file: projects of every kind of resolution find it by .js.
    ts.sys.writeFile(file, text.replace(/"(\.{1,2}\/[^"\n]*)\.ts"/g, '"$1.js"'));
  const { diagnostics } = program.emit(undefined, write);
  if (diagnostics.length === 0) return;
  const format = {
    getCanonicalFileName: (f: string) => f,
    getCurrentDirectory: () => root,
    getNewLine: () => "\n",
  };
  console.error(ts.formatDiagnostics(diagnostics, format));
  process.exit(1);
}
