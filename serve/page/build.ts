import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build, type Metafile } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));

const manifest = {
  name: "kiln",
  short_name: "kiln",
  description: "Chat with small language models on your own machine",
  id: "/",
  start_url: "/",
  display: "standalone",
  background_color: "#111113",
  theme_color: "#111113",
  icons: [{ src: "/assets/icon.svg", sizes: "any", type: "image/svg+xml", purpose: "any maskable" }],
};

/**
 * Builds the page into `folder`: `index.html`, `sw.js`, `manifest.webmanifest`, and `assets/` whose names change with their
 * content. Takes a tenth of a second or so.
 *
 * @returns what esbuild knows of the assets, by their names in `folder/assets`
 * @throws esbuild's error where a source is wrong
 */
export async function buildPage(folder: string): Promise<Metafile["outputs"]> {
  const assets = path.join(folder, "assets");
  await rm(folder, { recursive: true, force: true });
  await mkdir(assets, { recursive: true });
  const { metafile } = await build({
    ...common,
    entryPoints: { main: path.join(here, "main.tsx"), style: path.join(here, "style/index.css") },
    outdir: assets,
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    splitting: true,
    metafile: true,
    absWorkingDir: assets,
  });
  const names = Object.keys(metafile!.outputs);
  const named = (start: string, end: string) =>
    names.find((name) => name.startsWith(start) && name.endsWith(end))!;
  // The browser fetches what the main script imports at once, not one after the other.
  const main = named("main-", ".js");
  const preloads = metafile!.outputs[main].imports
    .filter(({ kind }) => kind === "import-statement")
    .map(({ path: name }) => `<link rel="modulepreload" href="/assets/${name}" />`);
  const html = (await readFile(path.join(here, "index.html"), "utf8"))
    .replace("STYLE", `/assets/${named("style-", ".css")}`)
    .replace("MAIN", `/assets/${main}`)
    .replace("</head>", `${preloads.join("")}</head>`);
  await writeFile(path.join(folder, "index.html"), html);
  await writeFile(path.join(folder, "manifest.webmanifest"), JSON.stringify(manifest));
  await writeFile(path.join(assets, "icon.svg"), await readFile(path.join(here, "icon.svg")));
  const shell = ["/", "/manifest.webmanifest", ...[...names, "icon.svg"].map((name) => `/assets/${name}`)];
  const version = createHash("sha256").update(html).update(shell.join()).digest("hex").slice(0, 12);
  await build({
    ...common,
    entryPoints: [path.join(here, "sw.ts")],
    outfile: path.join(folder, "sw.js"),
    define: { SHELL: JSON.stringify(shell), VERSION: JSON.stringify(version) },
  });
  return metafile!.outputs;
}

const common: BuildOptions = {
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  tsconfigRaw: {},
  legalComments: "none",
  logLevel: "silent",
};
