// Load a module of kiln by its path without extension: compiled, if `npm run build` left a dist/ that is not older than the
// sources (an installed package has none), else from source through tsx.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { root, stop } from "./prepare.mjs";

const rooms = ["core", "kernels", "nn", "models", "tokenizer", "train", "serve", "bench"];
/** Written by bin/build.ts; its time is when the build started. */
const stamp = path.join(root, "dist/built");

export async function load(module) {
  if (isBuilt()) return import(new URL(`../dist/${module}.js`, import.meta.url).href);
  const { register } = await import("tsx/esm/api").catch(() =>
    stop(`kiln's dependencies are missing: run \`npm ci --ignore-scripts\` in ${root}.`),
  );
  // Kiln's own settings, whatever tsconfig.json the current folder has.
  const tsconfig = fileURLToPath(new URL("../tsconfig.json", import.meta.url));
  register({ tsconfig: existsSync(tsconfig) ? tsconfig : false });
  return import(`../${module}.ts`);
}

/** Compiles kiln where a source is newer than what was built: a process then starts in a third of the time. */
export function compile() {
  if (isBuilt()) return;
  const script = path.join(root, "bin/build.ts");
  const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", script], {
    cwd: root,
    encoding: "utf8",
  });
  // From source everything runs as well.
  if (status !== 0)
    console.error(`kiln is not compiled and runs from source: ${stderr.trim().split("\n")[0]}`);
}

function isBuilt() {
  const built = statSync(stamp, { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined) return false;
  if (!existsSync(path.join(root, "cli.ts"))) return true;
  return !["index.ts", "cli.ts", ...rooms].some((name) => changedSince(path.join(root, name), built));
}

/** A folder's own time changes when files are added, renamed or deleted. */
function changedSince(file, time) {
  if (statSync(file).mtimeMs > time) return true;
  if (path.extname(file)) return false;
  return readdirSync(file, { withFileTypes: true }).some(
    (entry) =>
      (entry.isDirectory() || /\.(tsx?|wgsl|txt|css|html|svg)$/.test(entry.name)) &&
      changedSince(path.join(file, entry.name), time),
  );
}
