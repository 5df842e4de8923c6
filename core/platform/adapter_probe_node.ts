import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { systemManifests, webgpuVersion } from "./adapter_node.ts";
import { remembered } from "./cache_node.ts";
import { packageRoot } from "./package_node.ts";

/** How long a refusal counts: a driver may be mended where no file that we look at tells. */
const refusalMs = 24 * 3600 * 1000;

/**
 * Whether Dawn takes what the machine has installed, found out in a process whose stderr nobody sees: about a driver
 * that it refuses (Debian 12's Mesa) it writes raw lines to that of the process that asks. Remembered for the same
 * drivers, device files and Dawn.
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

/** Null where the question could not be put. A driver that ends the process, or keeps it, is refused. */
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
