import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

/** A line of PyTorch's ruler: the median of one variant of a task. */
export interface TorchLine {
  task: string;
  /** Precision, and how it was run: `f32`, `tf32 eager`, `transformers generate f16` … */
  variant: string;
  ms: number;
  tflops?: number;
  gbs?: number;
  tokens_per_s?: number;
  peak_gb?: number;
}

/**
 * Prefixes of the ruler's tasks that kiln has a row for, run by run: tasks that need its compiler come last, so that they
 * cannot keep the rest from being measured.
 */
export const taskRuns: readonly (readonly string[])[] = [
  ["matmul", "rows", "attention", "cross_entropy", "adamw", "decode"],
  ["train_tinyllm", "train_gpt2"],
];

/** Why the ruler cannot be run here, in one line, or null. A `.jsonl` file holds lines of an earlier run. */
export function whyNoTorch(path: string): string | null {
  if (!existsSync(path)) return `${path} is not there`;
  if (path.endsWith(".jsonl")) return null;
  const probe = spawnSync("python3", ["-c", "import torch; assert torch.cuda.is_available()"], {
    encoding: "utf8",
    timeout: 60_000,
  });
  if (probe.status === 0) return null;
  const reason = probe.error?.message ?? probe.stderr.trim().split("\n").at(-1);
  return `python3 cannot use torch on a GPU (${reason || `status ${probe.status}`})`;
}

/** The lines of an earlier run. */
export function readTorch(path: string): TorchLine[] {
  const lines: TorchLine[] = [];
  for (const text of readFileSync(path, "utf8").split("\n")) parseLine(text, (line) => lines.push(line));
  return lines;
}

/**
 * Runs some of the ruler's tasks for at most `ms` milliseconds; each line goes to `hear` as it comes. Gives what went
 * wrong, or null.
 */
export async function runTorch(
  path: string,
  tasks: readonly string[],
  ms: number,
  hear: (line: TorchLine) => void,
): Promise<string | null> {
  const child = spawn("python3", [path, ...tasks], { stdio: ["ignore", "pipe", "pipe"], detached: true });
  let stopped = false;
  const timer = setTimeout(() => {
    stopped = true;
    // The whole group: its compiler works in processes of its own.
    try {
      if (child.pid) process.kill(-child.pid, "SIGKILL");
    } catch {} // it ended just now
  }, ms);
  let last = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    last = text.trim().split("\n").at(-1) || last;
  });
  createInterface({ input: child.stdout }).on("line", (text) => parseLine(text, hear));
  return new Promise((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("close", (status) => {
      clearTimeout(timer);
      if (stopped) resolve(`stopped after its ${(ms / 1000).toFixed(0)} s`);
      else resolve(status === 0 ? null : last || `exit status ${status}`);
    });
  });
}

function parseLine(text: string, hear: (line: TorchLine) => void): void {
  if (!text.startsWith("{")) return;
  try {
    hear(JSON.parse(text) as TorchLine);
  } catch {} // cut short
}
