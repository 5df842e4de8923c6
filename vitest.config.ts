import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    // Processes, not threads: only a process's own environment reaches the Vulkan loader.
    pool: "forks",
    // Each has a device of its own: eight fit on a GPU.
    maxWorkers: Math.min(8, availableParallelism()),
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Dawn's objects die with their process; waiting for them buys nothing.
    teardownTimeout: 5_000,
  },
});
