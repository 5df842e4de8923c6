import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// Each process has a device of its own: eight fit on a GPU.
const maxWorkers = Math.min(8, availableParallelism());

export default defineConfig({
  test: {
    // Processes, not threads: only a process's own environment reaches the Vulkan loader.
    pool: "forks",
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
    ],
  },
});
