import { spawn } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../../core/platform/package_node.ts";
import { AppError } from "./app_error.ts";

/** What a child may take: time, memory and output; and how many may run at once. */
const CHILD = { ms: 120_000, heapMiB: 2048, bytes: 256 * 2 ** 20, atOnce: 2 };

let running = 0;

/**
 * What a kiln command prints, in a process of its own.
 * @throws AppError 429 while others run, 422 with what it said where it fails, 503 at its limits.
 */
export async function kiln(...args: string[]): Promise<string> {
  if (running >= CHILD.atOnce)
    throw new AppError(429, "data_busy", "other work on conversations is being done: try again in a moment");
  running++;
  try {
    return await output(args);
  } finally {
    running--;
  }
}

function output(args: readonly string[]): Promise<string> {
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${CHILD.heapMiB}`, join(packageRoot, "bin/kiln.mjs"), ...args],
    { stdio: ["ignore", "pipe", "pipe"], timeout: CHILD.ms, killSignal: "SIGKILL" },
  );
  const printed: Buffer[] = [];
  let [bytes, said] = [0, ""];
  child.stdout.on("data", (piece: Buffer) => {
    bytes += piece.length;
    if (bytes > CHILD.bytes) child.kill("SIGKILL");
    else printed.push(piece);
  });
  child.stderr.on("data", (piece: Buffer) => {
    said = `${said}${piece}`.slice(-4000);
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) return resolve(Buffer.concat(printed).toString("utf8"));
      const last = said.trimEnd().split("\n").at(-1)!;
      reject(
        code === null
          ? new AppError(503, "data_limit", "these conversations take too long here: use kiln data on a file")
          : new AppError(422, "data_failed", last.replace(/^(error|kiln): */i, "")),
      );
    });
  });
}
