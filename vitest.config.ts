import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

// Each process has a device of its own: eight fit on a GPU.
const maxWorkers = Math.min(8, availableParallelism());

/** Files that take longest come first: begun last, one would run for a minute beside an idle core. */
const longest = [
  ...["ops.test.ts", "ops_attention.test.ts", "ops_f16.test.ts", "browser.test.ts"],
  ...["states.slow.test.ts", "faults_load.slow.test.ts", "pretrain.slow.test.ts"],
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = longest.findIndex((name) => moduleId.endsWith(`/${name}`));
      return found < 0 ? longest.length : found;
    };
    return (await super.sort(files)).sort((a, b) => place(a) - place(b));
  }
}

const root = new URL(".", import.meta.url).pathname;

export default defineConfig({
  // What documents and the playground import, from source.
  resolve: {
    alias: [
      { find: /^kiln$/, replacement: `${root}index.ts` },
      { find: /^kiln\/(\w+)$/, replacement: `${root}$1/index.ts` },
    ],
  },
  test: {
    // Processes, not threads: only a process's own environment reaches the Vulkan loader.
    pool: "forks",
    sequence: { sequencer: LongestFirst },
    maxWorkers,
    globalSetup: maxWorkers > 2 ? ["tests/support/open_once.ts"] : [],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Dawn's objects die with their process; waiting for them buys nothing.
    teardownTimeout: 5_000,
    projects: [
      // `npm test`: what every change is checked with.
      { extends: true, test: { name: "quick", include: ["tests/**/!(*.slow).test.ts"] } },
      // `npm run test:slow`: kernels that only GPUs use by default, the benchmarks, whole sets of golden numbers.
      { extends: true, test: { name: "slow", include: ["tests/**/*.slow.test.ts"] } },
      // With it: the op suite on the software adapter that compiles for minutes, where the quick tests run on the other.
      {
        extends: true,
        test: {
          name: "second adapter",
          include: ["tests/ops.test.ts", "tests/ops_attention.test.ts"],
          env: { KILN_ADAPTER: process.env.KILN_F16_ADAPTER ?? "", KILN_SECOND_ADAPTER: "1" },
        },
      },
    ],
  },
});
