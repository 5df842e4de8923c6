// `npm test`: the quick tests, from a fresh clone; `npm run test:slow`: the long ones, and the op suite on the software adapter
// that compiles for minutes; `npm run test:faults`: those of quick and long ones that have the number of a fault, as in "F7: a
// reader that never reads". Arguments go on to vitest:
// `npm test -- tests/adapter.test.ts`. The last line is `N passed, N failed`, with `, N skipped` where there are any.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { compile } from "./load.mjs";
import { prepare, root, runNode } from "./prepare.mjs";

const [project, ...args] = process.argv.slice(2);
const found = prepare();
compile();
const adapters = testAdapters(found);
// `.ci/run` runs the two halves of `slow` one after the other.
const second = adapters.KILN_F16_ADAPTER ? ["second adapter"] : [];
const projects = { slow: ["slow", ...second], long: ["slow"], second }[project] ?? [project];
const which = project === "faults" ? faultTests() : projects.flatMap((name) => ["--project", name]);
if (which.length > 0) process.exitCode = await run([...which, ...args], adapters);
else console.log("0 passed, 0 failed");

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

/** Runs vitest and prints what it counted. Returns its status: a run that crashes has not passed, even if all of its tests did. */
async function run(vitestArguments, variables) {
  const folder = mkdtempSync(path.join(tmpdir(), "kiln-test-"));
  const file = path.join(folder, "counts.json");
  const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
  const reporters = ["--reporter=default", `--reporter=${path.join(root, "bin/count_reporter.mjs")}`];
  const status = await runNode(vitest, ["run", ...reporters, ...vitestArguments], {
    cwd: root,
    env: { ...process.env, ...variables, KILN_TEST_COUNTS: file },
  });
  const counted = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
  rmSync(folder, { recursive: true, force: true });
  const { passed, failed, skipped, failures } = counted ?? { passed: 0, failed: 0, skipped: 0, failures: [] };
  if (failed === 0 && status !== 0) failures.push(`vitest ended with status ${status}`);
  for (const failure of failures) console.log(`FAILED ${failure}`);
  console.log(`${passed} passed, ${failures.length} failed${skipped ? `, ${skipped} skipped` : ""}`);
  return status || (failures.length > 0 ? 1 : 0);
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
