import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Timing } from "./measure.ts";

/** Module in bench/peers and the npm package that it drives. */
const peers = [
  { module: "gpujs", name: "gpu.js", package: "gpu.js", ops: ["matmul", "add"] },
  {
    module: "jaxjs",
    name: "jax-js",
    package: "@jax-js/jax",
    ops: ["matmul", "add", "softmax", "layer_norm", "attention"],
  },
];

export interface PeerTiming {
  by: string;
  timing?: Timing;
  error?: string;
}

/** Times one operation on every installed peer that has it, each in its own process on the same adapter. */
export async function timePeers(
  name: string,
  work: { op: string; sizes: number[] },
  ms: number,
): Promise<PeerTiming[]> {
  const found: PeerTiming[] = [];
  for (const peer of peers) {
    const installed = existsSync(new URL(`./node_modules/${peer.package}/package.json`, import.meta.url));
    if (!installed || !peer.ops.includes(work.op)) continue;
    found.push(await timePeer(peer.module, peer.name, { name, ...work }, ms));
  }
  return found;
}

async function timePeer(module: string, name: string, row: object, ms: number): Promise<PeerTiming> {
  const script = fileURLToPath(new URL("./peers/child.mjs", import.meta.url));
  const { lines, ending } = await output([script, module, String(ms), JSON.stringify([row])], 120_000);
  const parsed = lines.flatMap((line) => {
    try {
      return [JSON.parse(line) as Partial<Timing> & { version?: string; error?: string }];
    } catch {
      return []; // the peer's own chatter
    }
  });
  const version = parsed.find((line) => line.version)?.version;
  const by = version ? `${name} ${version}` : name;
  const timed = parsed.find((line) => line.ms !== undefined);
  if (timed) return { by, timing: timed as Timing };
  return { by, error: parsed.find((line) => line.error)?.error ?? ending };
}

/** Lines of a Node process's standard output, and in words how it ended. */
function output(args: string[], limit: number): Promise<{ lines: string[]; ending: string }> {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "ignore"], timeout: limit });
  let text = "";
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (chunk: string) => {
    text += chunk;
  });
  return new Promise((resolve) => {
    child.on("error", (error) => resolve({ lines: [], ending: error.message }));
    child.on("close", (status, signal) => {
      resolve({ lines: text.split("\n"), ending: signal ? `stopped (${signal})` : `exit status ${status}` });
    });
  });
}
