// `npm test`: all tests, from a fresh clone. Arguments go on to vitest: `npm test -- tests/adapter.test.ts`.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { prepare, root, runNode } from "./prepare.mjs";

prepare();
const folder = mkdtempSync(path.join(tmpdir(), "kiln-test-"));
const report = path.join(folder, "report.json");
const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
const status = await runNode(vitest, ["run", ...reporters, ...process.argv.slice(2)], { cwd: root });
const { passed, failed, skipped } = count(report);
rmSync(folder, { recursive: true, force: true });
// A run that ends badly with all tests passed (a crash, an unhandled rejection) has not passed.
const failures = failed === 0 && status !== 0 ? 1 : failed;
console.log(`${passed} passed, ${failures} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exitCode = failures === 0 ? 0 : status || 1;

/** Tests by outcome; a file that does not even load counts as one failure. */
function count(file) {
  const totals = { passed: 0, failed: 0, skipped: 0 };
  try {
    const results = JSON.parse(readFileSync(file, "utf8")).testResults;
    for (const { status: outcome, assertionResults } of results) {
      const tests = assertionResults.map((test) => test.status);
      totals.passed += tests.filter((test) => test === "passed").length;
      totals.failed += tests.filter((test) => test === "failed").length;
      totals.skipped += tests.filter((test) => !["passed", "failed"].includes(test)).length;
      if (outcome === "failed" && !tests.includes("failed")) totals.failed += 1;
    }
  } catch {} // no report: the exit status says that it failed
  return totals;
}
