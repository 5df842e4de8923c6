import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/**
 * Opens the device once, in a process of its own, before test processes do so side by side: what a GPU's matrix units are
 * good for is then found out by one of them, and read from the cache by the others. Says nothing: tests will.
 */
export default function openOnce(): void {
  const kernels = new URL("../../kernels/index.ts", import.meta.url);
  const program = `const { openDevice } = await import(${JSON.stringify(kernels)}); await openDevice(); process.exit();`;
  const args = ["--import", "tsx", "--input-type=module", "-e", program];
  spawnSync(process.execPath, args, {
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    stdio: "ignore",
    timeout: 120_000, // a device that hangs is for the tests to tell
  });
}
