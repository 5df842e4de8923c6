import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it } from "vitest";
import { Registry } from "../models/registry/registry.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-registry-"));
afterAll(() => rmSync(folder, { recursive: true }));
const worker = fileURLToPath(new URL("support/registry_worker.ts", import.meta.url));

type Line = Partial<Record<"added" | "aliased" | "removed", number>> & { content?: string; failed?: string };

/** Runs a process on the registry, which is killed after `killAfter` ms of work; what it did. */
function run(root: string, seed: number, count: number, killAfter: number | null): Promise<Line[]> {
  const child = spawn(process.execPath, ["--import", "tsx", worker, root, `${seed}`, `${count}`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (data) => (text += data));
  if (killAfter !== null) child.stdout.once("data", () => setTimeout(() => child.kill("SIGKILL"), killAfter));
  return new Promise((resolve) =>
    child.once("close", () =>
      // The last line of a killed process may be cut off.
      resolve(
        text
          .split("\n")
          .slice(0, -1)
          .map((line) => JSON.parse(line) as Line),
      ),
    ),
  );
}

/** What holds of a registry whatever its processes did, with what they say that they did. */
async function check(root: string, lines: Line[]): Promise<void> {
  expect(lines.filter(({ failed }) => failed)).toEqual([]);
  const registry = new Registry(root);
  await registry.collect();
  const added = lines.flatMap((line) =>
    line.added === undefined ? [] : [[line.added, line.content] as const],
  );
  expect(new Set(added.map(([version]) => version)).size).toBe(added.length);
  const { versions, aliases } = await registry.model("m");
  const deleted = readdirSync(join(root, "m", "deleted")).map((name) => Number.parseInt(name, 10));
  // Each number was given once: what is there and what was deleted are all of them.
  const all = [...versions, ...deleted].sort((a, b) => a - b);
  expect(all).toEqual(all.map((_, i) => i + 1));
  for (const [version, content] of added) {
    if (deleted.includes(version)) continue;
    const { path, note } = await registry.find(`m@${version}`);
    expect([note, readFileSync(join(path, "b"), "utf8")]).toEqual([content, `b ${content}`]);
  }
  for (const { removed } of lines) if (removed !== undefined) expect(deleted).toContain(removed);
  for (const version of versions) expect(await registry.verify(`m@${version}`)).toEqual([]);
  if (aliases.prod !== undefined) expect(versions).toContain(aliases.prod);
  const left = readdirSync(join(root, "m")).filter((name) => name.startsWith("."));
  expect(left).toEqual([]);
}

it("random operations of four processes keep every promise of the registry", async () => {
  const root = join(folder, "live");
  const results = await Promise.all([1, 2, 3, 4].map((seed) => run(root, seed, 60, null)));
  const lines = results.flat();
  expect(lines.filter(({ added }) => added).length).toBeGreaterThan(20);
  expect(lines.filter(({ removed }) => removed).length).toBeGreaterThan(5);
  await check(root, lines);
}, 120_000);

it("processes that are killed at any moment leave whole versions, whole aliases and nothing else", async () => {
  const root = join(folder, "killed");
  const lines: Line[] = [];
  for (let round = 0; round < 8; round++) {
    // Killed at another moment each; one lives on beside them.
    const killed = [0, 1].map((i) => run(root, 100 + 10 * round + i, 0, 7 + ((round * 53 + i * 97) % 211)));
    lines.push(...(await Promise.all([...killed, run(root, 500 + round, 15, null)])).flat());
    await check(root, lines);
  }
  expect(existsSync(join(root, "m", ".lock"))).toBe(false);
}, 240_000);
