import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build, type Metafile } from "esbuild";

const require = createRequire(import.meta.url);
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

const noticesManifest = {
  ...manifest,
  name: "kiln notices",
  short_name: "Notices",
  description: "The notice board of a kiln server",
  ...{ id: "/notices", start_url: "/notices", scope: "/notices" },
};

/**
 * Builds the page into `folder`: `index.html`, `sw.js`, `manifest.webmanifest`, the same of the notice board, and `assets/` whose
 * names change with their content. Takes a few tenths of a second.
 *
 * @returns what esbuild knows of the assets, by their names in `folder/assets`
 * @throws esbuild's error where a source is wrong
 */
export async function buildPage(folder: string): Promise<Metafile["outputs"]> {
  const assets = path.join(folder, "assets");
  await rm(folder, { recursive: true, force: true });
  await mkdir(assets, { recursive: true });
  await writeFile(path.join(assets, "icon.svg"), await readFile(path.join(here, "icon.svg")));
  const [chat, notices] = await Promise.all([
    buildOne(folder, {
      ...{ path: "/", html: "index.html", worker: "sw.js", file: "manifest.webmanifest", manifest },
      entries: { main: "main.tsx", style: "style/index.css" },
    }),
    buildOne(folder, {
      ...{ path: "/notices", html: "notices.html", worker: "notices-sw.js" },
      ...{ file: "notices.webmanifest", manifest: noticesManifest },
      entries: {
        ...{ notices: "notices/main.tsx", "notices-style": "notices/style.css" },
        "notices-rules": "notices/rules.css",
      },
      // React Native's components as a browser has them.
      options: {
        alias: { "react-native": path.dirname(require.resolve("react-native-web/package.json")) },
        define: { "process.env.NODE_ENV": '"production"' },
      },
    }),
  ]);
  return { ...chat, ...notices };
}

/** A page: where it is served, its files, and what it is made of; the first entry is its script. */
interface Page {
  readonly path: string;
  readonly html: string;
  readonly worker: string;
  readonly file: string;
  readonly manifest: object;
  readonly entries: Readonly<Record<string, string>>;
  readonly options?: BuildOptions;
}

async function buildOne(folder: string, page: Page): Promise<Metafile["outputs"]> {
  const assets = path.join(folder, "assets");
  const entries = Object.entries(page.entries);
  const { metafile } = await build({
    ...common,
    ...page.options,
    entryPoints: Object.fromEntries(entries.map(([name, source]) => [name, path.join(here, source)])),
    outdir: assets,
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    splitting: true,
    metafile: true,
    absWorkingDir: assets,
  });
  const names = Object.keys(metafile!.outputs);
  const [main, ...styles] = entries.map(
    ([entry]) => names.find((name) => new RegExp(`^${entry}-\\w{8}\\.`).test(name))!,
  );
  // The browser fetches what the main script imports at once, not one after the other.
  const preloads = metafile!.outputs[main!]!.imports.filter(({ kind }) => kind === "import-statement").map(
    ({ path: name }) => `<link rel="modulepreload" href="/assets/${name}" />`,
  );
  const source = path.join(here, path.dirname(entries[0]![1]), "index.html");
  const html = (await readFile(source, "utf8"))
    .replace("MAIN", `/assets/${main}`)
    .replace(/STYLE|RULES/g, (place) => `/assets/${styles[place === "STYLE" ? 0 : 1]}`)
    .replace("</head>", `${preloads.join("")}</head>`);
  await writeFile(path.join(folder, page.html), html);
  await writeFile(path.join(folder, page.file), JSON.stringify(page.manifest));
  const shell = [page.path, `/${page.file}`, ...[...names, "icon.svg"].map((name) => `/assets/${name}`)];
  const version = createHash("sha256").update(html).update(shell.join()).digest("hex").slice(0, 12);
  await build({
    ...common,
    entryPoints: [path.join(here, "sw.ts")],
    outfile: path.join(folder, page.worker),
    define: Object.fromEntries(
      Object.entries({ SHELL: shell, VERSION: version, PAGE: page.path }).map(([name, value]) => [
        ...[name, JSON.stringify(value)],
      ]),
    ),
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
