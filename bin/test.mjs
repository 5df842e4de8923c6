// `npm test`: the quick tests, from a fresh clone; `npm run test:slow`: the long ones; `npm run test:faults`: those of both
// that have the number of a fault, as in "F7: a reader that never reads". Arguments go on to vitest:
// `npm test -- tests/adapter.test.ts`. The last line is `N passed, N failed`, with `, N skipped` where there are any.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { prepare, root, runNode } from "./prepare.mjs";

const [project, ...args] = process.argv.slice(2);
const found = prepare();
const adapters = testAdapters(found);
const total = { passed: 0, failed: 0, skipped: 0 };
await run([...(project === "faults" ? faultTests() : ["--project", project]), ...args], adapters);
// The quick tests run the op suite on one software adapter, the long ones on the other, which compiles for minutes.
if (project === "slow" && args.length === 0 && adapters.KILN_F16_ADAPTER) {
  console.log(`The op suite once more, on ${adapters.KILN_F16_ADAPTER}.`);
  await run(["--project", "quick", "tests/ops.test.ts", "tests/ops_attention.test.ts"], {
    KILN_ADAPTER: adapters.KILN_F16_ADAPTER,
  });
}
const { passed, failed, skipped } = total;
console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exitCode ||= failed === 0 ? 0 : 1;

/** Arguments for the tests of faults alone, and for the files that have some: others would be loaded in vain. */
function faultTests() {
  const name = "F[0-9]+( [A-Z][0-9]+)*: ";
  const folder = path.join(root, "tests");
  const files = readdirSync(folder).filter(
    (file) =>
      file.endsWith(".test.ts") && new RegExp(name).test(readFileSync(path.join(folder, file), "utf8")),
  );
  return ["-t", name, ...files.map((file) => path.join("tests", file))];
}

/** Runs vitest once and adds what it counted to the total. */
async function run(vitestArguments, variables) {
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-test-"));
  const file = path.join(folder, "counts.json");
  const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
  const reporters = ["--reporter=default", `--reporter=${path.join(root, "bin/count_reporter.mjs")}`];
  const status = await runNode(vitest, ["run", ...reporters, ...vitestArguments], {
    cwd: root,
    env: { ...process.env, ...variables, KILN_TEST_COUNTS: file },
  });
  const counts = existsSync(file)
    ? JSON.parse(readFileSync(file, "utf8"))
    : { passed: 0, failed: 0, skipped: 0 };
  rmSync(folder, { recursive: true, force: true });
  // A run that crashes has not passed, even if all of its tests did.
  if (counts.failed === 0 && status !== 0) counts.failed = 1;
  for (const name in total) total[name] += counts[name];
  process.exitCode ||= status;
}

/**
 * lavapipe runs kernels faster but takes seconds to compile some, and the tests compile hundreds: on a machine without a GPU
 * they run on SwiftShader, except those of f16, which run on lavapipe. The slow tests run every op there.
 */
function testAdapters({ driver }) {
  const hasSwiftshader = process.platform === "linux" && process.arch === "x64";
  if (driver !== "lavapipe" || process.env.KILN_ADAPTER || !hasSwiftshader) return {};
  console.log(
    "Tests run on SwiftShader, which compiles quickly, and f16 on lavapipe; KILN_ADAPTER=lavapipe npm test runs all on it.",
  );
  return { KILN_ADAPTER: "swiftshader", KILN_F16_ADAPTER: "lavapipe" };
}
