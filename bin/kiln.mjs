#!/usr/bin/env node
// The `kiln` command: cli.ts run from source.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { checkNode, root, stop } from "./prepare.mjs";

checkNode();
const { register } = await import("tsx/esm/api").catch(() =>
  stop(`kiln's dependencies are missing: run \`npm ci --ignore-scripts\` in ${root}.`),
);
// Its own settings, whatever tsconfig.json the current folder has.
const tsconfig = fileURLToPath(new URL("../tsconfig.json", import.meta.url));
register({ tsconfig: existsSync(tsconfig) ? tsconfig : false });
await import("../cli.ts");
