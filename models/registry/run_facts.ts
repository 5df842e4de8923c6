import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isObject, readJson, textIfPresent } from "../../core/platform/files.ts";
import type { Facts } from "./manifest.ts";

type RunFacts = Pick<Facts, "config" | "metrics" | "data_sha256"> & {
  settings: { init_from?: string } | null;
};

/** What the run folder that a model was trained in knows of it; nulls for a model that is in none. */
export async function runFacts(path: string): Promise<RunFacts> {
  for (const folder of [path, dirname(path)]) {
    const file = join(folder, "config.json");
    const config = existsSync(file) ? await readJson(file) : null;
    // A run's config.json holds its settings, a model's the sizes.
    if (!isObject(config) || config.out_dir === undefined) continue;
    const settings = isObject(config.model) ? (config.model as { init_from?: string }) : null;
    return { config, settings, metrics: lastMetrics(folder), data_sha256: await dataHash(folder) };
  }
  return { config: null, settings: null, metrics: null, data_sha256: null };
}

/** The last value of each number of a run's log: those of the last update, and of the last measurements. */
function lastMetrics(folder: string): Record<string, number | null> | null {
  const last: Record<string, number | null> = {};
  for (const line of (textIfPresent(join(folder, "log.jsonl")) ?? "").split("\n")) {
    // A crash may have cut the last line off.
    const record = line.endsWith("}") ? (JSON.parse(line) as Record<string, unknown>) : {};
    for (const [name, value] of Object.entries(record))
      if (typeof value === "number" || value === null) last[name] = value;
  }
  return Object.keys(last).length > 0 ? last : null;
}

/** The hash of what a run learned from, as its newest checkpoint has it. */
async function dataHash(folder: string): Promise<string | null> {
  const checkpoints = join(folder, "checkpoints");
  const names = (await readdir(checkpoints).catch(() => [])).filter((name) => /^step-\d+$/.test(name));
  const newest = names.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5))).at(-1);
  const state = newest && (await readJson(join(checkpoints, newest, "trainer_state.json")).catch(() => null));
  if (!isObject(state) || !isObject(state.settings)) return null;
  const { "data.content": content = state.settings.data } = state.settings;
  return typeof content === "string" ? content : null;
}
