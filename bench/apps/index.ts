import { chatRows } from "./chat.ts";
import { dataRows } from "./data.ts";

/** A step of an application: how it is run, and what it may take. */
export interface AppRow {
  name: string;
  /** Milliseconds of one item, as the seed states them. */
  seed?: number;
  /** Milliseconds of one item, at most. */
  target: number;
  prepare: () => Prepared | Promise<Prepared>;
}

interface Prepared {
  items: number;
  /** Does the work of all items. A number that it returns is shown in place of the time. */
  run: () => unknown;
  dispose?: () => Promise<void>;
}

export interface AppResult {
  name: string;
  /** Of the best of five runs, and of the worst. */
  ms: number;
  worst_ms: number;
  /** Null where the row is no time of this process. */
  cpu_ms: number | null;
  seed_ms: number | null;
  target_ms: number;
  /** Growth of the resident memory in a run, of the run in which it grew most. */
  mib: number;
}

const runs = 5;

/** Times each row: the best of five runs after one that does not count. */
export async function appResults(filter = ""): Promise<AppResult[]> {
  const results: AppResult[] = [];
  const rows = [...dataRows(), ...chatRows].filter((row) => row.name.includes(filter));
  for (const { name, seed, target, prepare } of rows) {
    const { items, run, dispose } = await prepare();
    await run();
    let growth = 0;
    const times: { ms: number; cpu: number | null }[] = [];
    for (let i = 0; i < runs; i++) {
      const before = process.memoryUsage.rss();
      const [start, cpu] = [performance.now(), process.cpuUsage()];
      const told = await run();
      const ms = typeof told === "number" ? told : (performance.now() - start) / items;
      const { user, system } = process.cpuUsage(cpu);
      growth = Math.max(growth, process.memoryUsage.rss() - before);
      times.push({ ms, cpu: typeof told === "number" ? null : (user + system) / 1e3 / items });
    }
    times.sort((a, b) => a.ms - b.ms);
    await dispose?.();
    results.push({
      name,
      ms: times[0].ms,
      worst_ms: times[runs - 1].ms,
      cpu_ms: times.some(({ cpu }) => cpu === null) ? null : Math.min(...times.map(({ cpu }) => cpu!)),
      seed_ms: seed ?? null,
      target_ms: target,
      mib: growth / 2 ** 20,
    });
  }
  return results;
}

const number = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(2));

/** The results as a table in Markdown. */
export function appTable(results: readonly AppResult[]): string {
  const head = [
    "step",
    "ms, best (worst) of 5",
    "processor ms",
    "MiB",
    "at most",
    "seed",
    "seed over processor ms",
  ];
  const rows = results.map(({ name, ms, worst_ms, cpu_ms, mib, target_ms, seed_ms }) => [
    name,
    `${number(ms)} (${number(worst_ms)})`,
    cpu_ms === null ? "" : number(cpu_ms),
    mib.toFixed(1),
    `${target_ms}`,
    ...(seed_ms === null || cpu_ms === null ? ["", ""] : [`${seed_ms}`, number(seed_ms / cpu_ms)]),
  ]);
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
