// `npm run bench`: the benchmarks, with the peers of bench/package.json if they can be installed.
import { existsSync } from "node:fs";
import path from "node:path";
import { dependenciesMatch, kiln, npm, prepare, root, runNode } from "./prepare.mjs";

prepare();
const bench = path.join(root, "bench");
// The GPU table compares with PyTorch instead and may run without a network; the page measures nothing; applications and search have no peers.
const alone = ["--gpu-table", "--page", "--no-peers", "--quick", "apps", "rag"].some((flag) =>
  process.argv.includes(flag),
);
if (!alone && existsSync(path.join(bench, "package.json")) && !dependenciesMatch(bench)) {
  console.log("Installing the peers to compare with…");
  const locked = existsSync(path.join(bench, "package-lock.json"));
  const problem = npm([locked ? "ci" : "install", "--ignore-scripts", "--omit=optional"], bench);
  if (problem) console.log(`The peers cannot be installed (${problem}): going on without them.`);
}
process.exitCode = await runNode(kiln, ["bench", ...process.argv.slice(2)]);
