import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { findsHardware } from "../core/platform/adapter.ts";
import { softwareDrivers, webgpuVersion } from "../core/platform/adapter_node.ts";
import { remembered } from "../core/platform/cache_node.ts";
import { packageRoot } from "../core/platform/package_node.ts";
import { isGguf, readGguf } from "../models/formats/gguf.ts";
import { ggufConfig } from "../models/formats/gguf_names.ts";
import type { DecodingTime } from "./adapter_trial.ts";

/** A way to run shaders on the processor. */
interface Candidate {
  name: string;
  /** The environment that selects it. */
  env: { KILN_ADAPTER: string; LP_NUM_THREADS?: string };
}

/** Milliseconds of a step by candidate; null where it does not run the model. */
type Times = Record<string, DecodingTime | null>;

export interface QuickestOptions {
  /** False: only use remembered times. */
  measure?: boolean;
  /** Told when a measurement begins. */
  say?: (line: string) => void;
  timeOf?: typeof timeInChild;
}

/** Raise it when kernels change so that remembered times are out of date. */
const version = 1;

/** If the first round took less, a second one makes up for a busy moment in it. */
const patienceMs = 15_000;

/** A candidate that has not answered within this, compiling included, is too slow to be one. */
const limitMs = 60_000;

/**
 * If there is no GPU and nothing names an adapter, takes the software adapter that decodes quickest with this model: sets
 * the environment for the device that is opened next, and returns a line that says what was taken and why. lavapipe is
 * tried with and without threads, since waking them takes longer than a dispatch of a small model. Each candidate is
 * measured once, in a process of its own; the times are kept in the user's cache by the model's shape and the drivers.
 * @returns null if there is nothing to choose, or nothing is remembered and `measure` is false.
 */
export async function takeQuickest(
  directory: string,
  dtype: "f32" | "f16",
  { measure = true, say = (_line: string) => {}, timeOf = timeInChild }: QuickestOptions = {},
): Promise<string | null> {
  const { KILN_ADAPTER: asked = "", LP_NUM_THREADS: threads } = process.env;
  if (!["", "auto", "software"].includes(asked) || threads !== undefined) return null;
  const drivers = softwareDrivers();
  const candidates = drivers.flatMap(({ driver }) => candidatesOf(driver));
  const config = candidates.length < 2 ? null : configText(directory);
  if (config === null) return null;
  if (asked !== "software" && (await findsHardware())) return null;
  const shape = createHash("sha256").update(config).digest("hex");
  const subject = { shape, dtype, drivers, dawn: webgpuVersion(), cores: availableParallelism(), version };
  const memory = remembered<Times>("quickest", JSON.stringify(subject));
  const known = memory.load();
  if (!known && !measure) return null;
  if (!known) say("measuring once which software adapter is quickest for this model…");
  const measured = known ?? measureAll(candidates, (candidate) => timeOf(candidate, directory, dtype));
  // Servers that start together must choose alike: the first to be done decides, the others drop their own times.
  const times = known ?? memory.load() ?? measured;
  const [best, ...rest] = candidates
    .filter(({ name }) => times[name])
    .sort((a, b) => cost(times[a.name]!) - cost(times[b.name]!));
  if (!best) return null;
  if (times === measured && !known) memory.save(times);
  Object.assign(process.env, best.env);
  const text = ({ name }: Candidate) => {
    const { one, many } = times[name]!;
    return `${name} ${one.toFixed(1)} and ${many.toFixed(1)} ms`;
  };
  return `${best.name}: a step of 1 and of 16 sequences takes ${[best, ...rest].map(text).join(", ")} (measured once; KILN_ADAPTER chooses another)`;
}

function configText(model: string): string | null {
  if (isGguf(model)) return JSON.stringify(ggufConfig(readGguf(model), model));
  const file = join(model, "config.json");
  return existsSync(file) ? readFileSync(file, "utf8") : null;
}

function measureAll(candidates: readonly Candidate[], timeOf: (c: Candidate) => DecodingTime | null): Times {
  const start = performance.now();
  const times: Times = Object.fromEntries(candidates.map((c) => [c.name, timeOf(c)]));
  if (performance.now() - start > patienceMs) return times;
  for (const c of candidates) {
    const [first, again] = [times[c.name], timeOf(c)];
    if (first && again)
      times[c.name] = { one: Math.min(first.one, again.one), many: Math.min(first.many, again.many) };
  }
  return times;
}

function candidatesOf(driver: "lavapipe" | "swiftshader"): Candidate[] {
  if (driver === "swiftshader") return [{ name: "SwiftShader", env: { KILN_ADAPTER: driver } }];
  return [
    { name: "lavapipe", env: { KILN_ADAPTER: driver } },
    { name: "lavapipe on one thread", env: { KILN_ADAPTER: driver, LP_NUM_THREADS: "0" } },
  ];
}

/** A product, so that equal ratios of either time count alike. */
const cost = ({ one, many }: DecodingTime) => one * many;

function timeInChild({ env }: Candidate, directory: string, dtype: string): DecodingTime | null {
  const script = join(packageRoot, "bin/trial.mjs");
  const done = spawnSync(process.execPath, [script, directory, dtype], {
    encoding: "utf8",
    env: { ...process.env, ...env },
    timeout: limitMs,
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const answer = JSON.parse(done.stdout.trim().split("\n").at(-1)!) as Partial<DecodingTime>;
    return answer.one && answer.many ? { one: answer.one, many: answer.many } : null;
  } catch {
    return null;
  }
}
