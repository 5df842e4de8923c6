import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    // Processes, not threads: only a process's own environment reaches the Vulkan loader.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Dawn's objects die with their process; waiting for them buys nothing.
    teardownTimeout: 5_000,
  },
});
