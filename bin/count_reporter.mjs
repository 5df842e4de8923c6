import { writeFileSync } from "node:fs";

/** A vitest reporter that writes `{passed, failed, skipped}` to the file that KILN_TEST_COUNTS names. */
export default class CountReporter {
  onInit({ config }) {
    this.pattern = config.testNamePattern ?? /./;
  }

  onTestRunEnd(modules, unhandledErrors) {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const module of modules) {
      const before = counts.failed;
      for (const test of module.children.allTests()) {
        // What a pattern leaves out was not skipped for a reason.
        if (!this.pattern.test(test.fullName.replaceAll(" > ", " "))) continue;
        const { state } = test.result();
        counts[state === "passed" || state === "failed" ? state : "skipped"] += 1;
      }
      // A file that does not load, or whose hooks fail, is a failure too.
      if (module.state() === "failed" && counts.failed === before) counts.failed += 1;
    }
    writeFileSync(process.env.KILN_TEST_COUNTS, JSON.stringify(counts));
  }
}
