import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// Each process has a device of its own: eight fit on a GPU.
const maxWorkers = Math.min(8, availableParallelism());

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    // Processes, not threads: only a process's own environment reaches the Vulkan loader.
    pool: "forks",
    maxWorkers,
    globalSetup: maxWorkers > 2 ? ["tests/support/open_once.ts"] : [],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Dawn's objects die with their process; waiting for them buys nothing.
    teardownTimeout: 5_000,
  },
});
