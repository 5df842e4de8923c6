import { writeFileSync } from "node:fs";

/**
 * A vitest reporter that writes `{passed, failed, skipped, failures}` to the file that KILN_TEST_COUNTS names. `failures` has one
 * line for each: its file, its name, and the first line of what went wrong.
 */
export default class CountReporter {
  onInit({ config }) {
    this.pattern = config.testNamePattern ?? /./;
  }

  onTestRunEnd(modules, unhandledErrors) {
    const failures = unhandledErrors.map((error) => `outside of any test: ${firstLine([error])}`);
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const module of modules) {
      const before = counts.failed;
      for (const test of module.children.allTests()) {
        // What a pattern leaves out was not skipped for a reason.
        if (!this.pattern.test(test.fullName.replaceAll(" > ", " "))) continue;
        const { state, errors } = test.result();
        counts[state === "passed" || state === "failed" ? state : "skipped"] += 1;
        if (state === "failed")
          failures.push(`${module.relativeModuleId}: ${test.fullName}: ${firstLine(errors)}`);
      }
      // A file that does not load, or whose hooks fail, is a failure too.
      if (module.state() === "failed" && counts.failed === before) {
        counts.failed += 1;
        failures.push(`${module.relativeModuleId}: ${firstLine(module.errors()) || "a hook of it failed"}`);
      }
    }
    writeFileSync(process.env.KILN_TEST_COUNTS, JSON.stringify({ ...counts, failures }));
  }
}

function firstLine(errors) {
  return (errors?.[0]?.message ?? "").split("\n", 1)[0].slice(0, 300);
}
