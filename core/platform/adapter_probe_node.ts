import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { systemManifests, webgpuVersion } from "./adapter_node.ts";
import { remembered } from "./cache_node.ts";
import { packageRoot } from "./package_node.ts";

/** How long a refusal counts: a driver may be repaired without a change to any file that we look at. */
const refusalMs = 24 * 3600 * 1000;

/**
 * Whether Dawn accepts the installed driver. Asked in a child process whose stderr is dropped, because Dawn writes raw lines
 * there about a driver that it refuses (Debian 12's Mesa). The answer is remembered for the same drivers, device files and
 * Dawn.
 */
export function systemDriverAnswers(): boolean {
  if (process.platform !== "linux") return true;
  const files = systemManifests().map((file) => [file, statSync(file, { throwIfNoEntry: false })?.mtimeMs]);
  const variables = Object.entries(process.env).filter(([name]) => name.startsWith("VK_"));
  const devices = [...list("/dev/dri"), ...list("/dev").filter((name) => name.startsWith("nvidia"))];
  const subject = JSON.stringify({ files, variables, devices, dawn: webgpuVersion() });
  const memory = remembered<{ answers: boolean; at: number }>("system_driver", subject);
  const known = memory.load();
  if (known && (known.answers || Math.abs(Date.now() - known.at) < refusalMs)) return known.answers;
  const answers = ask();
  if (answers !== null) memory.save({ answers, at: Date.now() });
  return answers ?? true;
}

/** Null if the child could not be run. A driver that crashes the process, or hangs in it, is refused. */
function ask(): boolean | null {
  const script = path.join(packageRoot, "bin/probe.mjs");
  const { stdout, signal } = spawnSync(process.execPath, [script, "system"], {
    encoding: "utf8",
    timeout: 30_000,
    killSignal: "SIGKILL",
    stdio: ["ignore", "pipe", "ignore"],
  });
  if (signal !== null) return false;
  return ["true", "false"].includes(stdout?.trim()) ? stdout.trim() === "true" : null;
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
