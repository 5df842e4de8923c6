// Counts the lines of each part against its bound, so that the whole stays something that one person can read in a day. Part
// of the lint step, which fails above a bound. Tests, documents, data and lock files do not count.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

const parts = [
  {
    name: "engine, trainer and server",
    // The design has 35,000 here with encoders, adapters, formats, recipes, metrics and the whole server. docs/log.md ("Lines")
    // says what takes more; the bound moves by what an issue adds, so that nothing grows unseen.
    bound: 72_060,
    folders: ["core", "kernels", "nn", "models", "tokenizer", "train", "serve", "index.ts", "cli.ts"],
  },
  {
    name: "applications",
    // The design has 11,000, of which 2,200 are the page: with a component under 60 lines, one property a line in the style and all
    // texts in one file it takes 5,500. docs/log.md ("Lines") says more.
    bound: 33_490,
    folders: [
      ...["serve/store", "serve/app", "serve/http/api/app", "serve/page", "tokenizer/text"],
      ...["train/data/conversations", "models/registry"],
    ],
  },
  // The design's 5,500, and 400 for what verify checks of encoders, encoder-decoders, adapters, quantization and metrics.
  { name: "bench", bound: 7_200, folders: ["bench"] },
];

const counted = /\.(ts|tsx|mjs|wgsl|css|html)$/;
const within = (path, folders) => folders.some((folder) => path === folder || path.startsWith(`${folder}/`));
const files = execFileSync("git", ["ls-files"], { encoding: "utf8" })
  .split("\n")
  .filter((path) => counted.test(path));

let over = false;
for (const { name, bound, folders } of parts) {
  // A folder belongs to the part that names it most specifically.
  const inner = parts
    .flatMap((part) => (part.name === name ? [] : part.folders))
    .filter((path) => within(path, folders));
  const own = files.filter((path) => within(path, folders) && !within(path, inner));
  const lines = own.reduce((sum, path) => sum + readFileSync(path, "utf8").split("\n").length - 1, 0);
  const number = (n) => n.toLocaleString("en").padStart(7);
  console.log(`${name.padEnd(28)}${number(lines)} of ${number(bound)} lines${lines > bound ? "  OVER" : ""}`);
  over ||= lines > bound;
}
if (over) {
  console.error("a part is over its bound (bin/budget.mjs): take lines away, or say in the log why it grows");
  process.exit(1);
}
