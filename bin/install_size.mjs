// Prints what `npm ci --omit=dev --ignore-scripts` puts on a disk, and fails above a budget: a dependency that brings hundreds of
// megabytes along shall not slip in. Counts the packages of the lock file that are no developers' needs, as they lie in node_modules.
import { lstatSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { root } from "./prepare.mjs";

/**
 * Measured on Linux x64 (2026-12-01: 397.6 MB, of which webgpu has 137, chromium's SwiftShader 68, tokenizers 66, libsql 20,
 * pictures 19, other documents 21, what conversation data needs 11 and what the page is made of 9), and a twentieth.
 */
const budget = 417e6;

/** Bytes of the files below a folder; packages inside of it are listed by themselves. */
function bytesOf(folder) {
  let sum = 0;
  for (const name of readdirSync(folder)) {
    const entry = path.join(folder, name);
    const stat = lstatSync(entry);
    if (!stat.isDirectory()) sum += stat.size;
    else if (name !== "node_modules") sum += bytesOf(entry);
  }
  return sum;
}

const { packages } = JSON.parse(readFileSync(path.join(root, "package-lock.json"), "utf8"));
const sizes = Object.entries(packages)
  .filter(([name, { dev }]) => name !== "" && !dev)
  .flatMap(([name, { optional, devOptional, peer }]) => {
    try {
      return [{ name: name.replace(/^node_modules\//, ""), bytes: bytesOf(path.join(root, name)) }];
    } catch (error) {
      // Those of other platforms are listed, but rightly absent.
      if (error.code === "ENOENT" && (optional || devOptional || peer)) return [];
      throw error;
    }
  })
  .sort((a, b) => b.bytes - a.bytes);

const mb = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const total = sizes.reduce((sum, { bytes }) => sum + bytes, 0);
for (const { name, bytes } of sizes.slice(0, 5)) console.log(`${mb(bytes).padStart(9)}  ${name}`);
console.log(`${mb(total).padStart(9)}  installed, of ${mb(budget)}: ${sizes.length} packages`);
if (total > budget) {
  console.error(
    "the dependencies are over their budget (bin/install_size.mjs): take one away, or say in the log why it grows",
  );
  process.exit(1);
}
