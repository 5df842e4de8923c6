import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packageRoot } from "../core/platform/package_node.ts";
import type { Timing } from "./measure.ts";

/** Module in bench/peers, the npm package that it drives, and the operations that it has. */
const peers = [
  { module: "gpujs", name: "gpu.js", package: "gpu.js", ops: ["matmul", "add"] },
  {
    module: "jaxjs",
    name: "jax-js",
    package: "@jax-js/jax",
    ops: ["matmul", "add", "softmax", "layer_norm", "gelu", "attention", "train"],
  },
  {
    module: "tfjs",
    name: "tfjs",
    package: "@tensorflow/tfjs-backend-webgpu",
    ops: ["matmul", "add", "softmax", "layer_norm", "gelu", "attention", "train"],
  },
  {
    module: "ort",
    name: "onnxruntime-web",
    package: "onnxruntime-web",
    ops: ["matmul", "add", "softmax", "layer_norm"],
  },
  { module: "served", name: "kiln serve", package: null, ops: ["streams"] },
  { module: "llamacpp", name: "llama.cpp, 1 thread", package: "node-llama-cpp", ops: ["streams"] },
  { module: "torch", name: "PyTorch, processor", package: null, ops: ["classify", "lora", "streams"] },
];

/** The same work for a peer: an operation that the peers know, and its extents. */
export interface PeerWork {
  op: string;
  sizes: number[];
  /** A model that it is about. */
  file?: string;
}

export interface PeerTiming {
  by: string;
  timing?: Timing;
  /** One line: why there is no figure. */
  error?: string;
}

/** Longest wait for one row of a peer: the first call compiles for up to a minute on a software adapter. */
const limitMs = 300_000;

/** The peers that are installed, each in a process of its own on the same adapter, started when a row first needs it. */
export class Peers {
  readonly #open = new Map<string, PeerProcess>();
  /** Peers that cannot even be opened: said once, not again at every row. */
  readonly #given = new Set<string>();

  /** Names of the peers that are not installed. */
  static missing(): string[] {
    return peers.filter((peer) => !isInstalled(peer.package)).map(({ name }) => name);
  }

  /** Names of the installed peers that have an operation. */
  static having(op: string): string[] {
    return peers.filter((peer) => peer.ops.includes(op) && isInstalled(peer.package)).map(({ name }) => name);
  }

  /** Times one operation on every installed peer that has it. */
  async time(work: PeerWork, ms: number): Promise<PeerTiming[]> {
    const found: PeerTiming[] = [];
    for (const { module, name, package: needed, ops } of peers) {
      if (!ops.includes(work.op) || this.#given.has(module) || !isInstalled(needed)) continue;
      let child = this.#open.get(module);
      if (!child?.alive) {
        child = new PeerProcess(module);
        this.#open.set(module, child);
        const { version, error } = await child.next();
        if (!version) {
          this.#given.add(module);
          child.stop();
          found.push({ by: name, error: `cannot be opened: ${error}` });
          continue;
        }
        child.version = version;
      }
      found.push({ by: `${name} ${child.version}`, ...(await child.time({ ...work, ms })) });
    }
    return found;
  }

  close(): void {
    for (const child of this.#open.values()) child.stop();
  }
}

function isInstalled(name: string | null): boolean {
  if (name === null) return true;
  // llama.cpp is one of the root's: tests run it as well.
  const folders = ["bench/node_modules", "node_modules"];
  return folders.some((folder) => existsSync(join(packageRoot, folder, name, "package.json")));
}

interface Answer extends Partial<Timing> {
  version?: string;
  error?: string;
}

/** A peer's process: one line of JSON in, one out. */
class PeerProcess {
  version = "";
  alive = true;
  readonly #child: ChildProcess;
  readonly #answers: Answer[] = [];
  #wake: () => void = () => {};

  constructor(module: string) {
    const script = join(packageRoot, "bench/peers/child.mjs");
    this.#child = spawn(process.execPath, [script, module], { stdio: ["pipe", "pipe", "ignore"] });
    this.#child.stdin!.on("error", () => {}); // its end is heard of by "close"
    const end = (ending: string) => {
      this.alive = false;
      this.#take({ error: ending });
    };
    this.#child.on("error", (error) => end(error.message));
    this.#child.on("close", (status, signal) =>
      end(signal ? `stopped (${signal})` : `exit status ${status}`),
    );
    createInterface({ input: this.#child.stdout! }).on("line", (line) => {
      if (!line.startsWith("{")) return; // the peer's own chatter
      try {
        this.#take(JSON.parse(line) as Answer);
      } catch {} // chatter as well
    });
  }

  #take(answer: Answer): void {
    this.#answers.push(answer);
    this.#wake();
  }

  /** The next line; an error after `limitMs`, or when the process ends. */
  async next(): Promise<Answer> {
    const timer = setTimeout(() => {
      this.#take({ error: `over ${limitMs / 1000} s` });
      this.stop();
    }, limitMs);
    while (this.#answers.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    clearTimeout(timer);
    return this.#answers.shift()!;
  }

  async time(work: PeerWork & { ms: number }): Promise<Pick<PeerTiming, "timing" | "error">> {
    if (this.alive && process.platform !== "win32") this.#child.kill("SIGCONT");
    this.#child.stdin!.write(`${JSON.stringify(work)}\n`);
    const { ms, cpu_ms, samples, first_ms, error } = await this.next();
    this.#pause();
    if (ms === undefined) return { error: error ?? "no figure" };
    return { timing: { ms, cpu_ms: cpu_ms!, samples: samples!, first_ms: first_ms! } };
  }

  /** Stops it until its next row: some peers poll for the end of their work, which would take a core. */
  #pause(): void {
    if (this.alive && process.platform !== "win32") this.#child.kill("SIGSTOP");
  }

  stop(): void {
    this.alive = false;
    this.#child.kill("SIGKILL");
  }
}
