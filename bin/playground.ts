import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build } from "esbuild";
import { inside, kernelsInside, withoutNode, withoutUnused } from "./bundle_plugin.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const source = path.join(root, "docs/playground");

/** Kernels that no step of a TinyLLM with AdamW runs, and no answer of a decoder in full precision. */
const unused =
  /^(conv|integer_matmul|lora|quantized_matmul|search)\/|^reduce\/(cumsum|move_rows|sort)|^optim\/(adam_8bit|applied|bfloat16|descend|lion|loss_scale|momentum|muon|rmsprop|sgd)\./;

const common: BuildOptions = {
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  logLevel: "silent",
  absWorkingDir: root,
  entryNames: "[name]-[hash]",
  metafile: true,
};

/**
 * Builds the playground into `folder`, which any static host may serve: `index.html`, `sw.js`, and files whose names change with
 * their content. Takes half a second.
 *
 * @throws esbuild's error where a source is wrong
 */
export async function buildPlayground(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const files = ["./", "icon.svg"];
  const made = async (entry: string, options: BuildOptions = {}) => {
    const { metafile } = await build({
      ...common,
      outdir: folder,
      entryPoints: [path.join(source, entry)],
      ...options,
    });
    const name = path.basename(Object.keys(metafile!.outputs)[0]);
    files.push(name);
    return name;
  };
  const plugins = [
    kernelsInside({ bare: true, unused }),
    withoutNode(),
    inside("zod"),
    withoutUnused(unused),
  ];
  // Loaded when it is first needed. esbuild would put what both take from a door of kiln's into one chunk, and all of it.
  const chatTemplate = await made("chat_template.ts", { plugins });
  const zip = await made("zip.ts");
  const define = { CHAT_TEMPLATE: JSON.stringify(`./${chatTemplate}`), ZIP: JSON.stringify(`./${zip}`) };
  const worker = await made("worker.ts", { plugins, define, external: [`./${chatTemplate}`, `./${zip}`] });
  const main = await made("main.ts", { define: { WORKER: JSON.stringify(worker) } });
  const style = await made("style.css");
  const html = (await readFile(path.join(source, "index.html"), "utf8"))
    .replace("STYLE", style)
    .replace("MAIN", main);
  await writeFile(path.join(folder, "index.html"), html);
  await writeFile(path.join(folder, "icon.svg"), await readFile(path.join(root, "serve/page/icon.svg")));
  const version = createHash("sha256").update(html).update(files.join()).digest("hex").slice(0, 12);
  await made("sw.ts", {
    entryNames: "[name]",
    define: {
      SHELL: JSON.stringify(files),
      VERSION: JSON.stringify(version),
    },
  });
}
