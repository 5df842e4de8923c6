// `npm test`: all tests, from a fresh clone. Arguments go on to vitest: `npm test -- tests/adapter.test.ts`.
// The last line is `N passed, N failed`, with `, N skipped` where there are any.
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { prepare, root, runNode } from "./prepare.mjs";

const env = { ...process.env, ...testAdapters(prepare()) };
const folder = mkdtempSync(path.join(tmpdir(), "kiln-test-"));
const counts = path.join(folder, "counts.json");
const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
const reporters = ["--reporter=default", `--reporter=${path.join(root, "bin/count_reporter.mjs")}`];
const status = await runNode(vitest, ["run", ...reporters, ...process.argv.slice(2)], {
  cwd: root,
  env: { ...env, KILN_TEST_COUNTS: counts },
});
const nothing = { passed: 0, failed: 0, skipped: 0 };
const { passed, failed, skipped } = existsSync(counts) ? JSON.parse(readFileSync(counts, "utf8")) : nothing;
rmSync(folder, { recursive: true, force: true });
// A run that ends badly with all tests passed (a crash) has not passed.
const failures = failed === 0 && status !== 0 ? 1 : failed;
console.log(`${passed} passed, ${failures} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exitCode = failures === 0 ? 0 : status || 1;

/**
 * lavapipe runs kernels faster but takes seconds to compile some, and the tests compile hundreds: on a machine without a
 * GPU they run on SwiftShader, and on lavapipe those of f16 and of what each op does there by default.
 */
function testAdapters(found) {
  const hasSwiftshader = process.platform === "linux" && process.arch === "x64";
  if (found.driver !== "lavapipe" || process.env.KILN_ADAPTER || !hasSwiftshader) return {};
  console.log(
    "Tests run on SwiftShader, which compiles quickly, and f16 on lavapipe; KILN_ADAPTER=lavapipe npm test runs all on it.",
  );
  return { KILN_ADAPTER: "swiftshader", KILN_F16_ADAPTER: "lavapipe" };
}
