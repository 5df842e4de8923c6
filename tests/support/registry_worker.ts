import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import seedrandom from "seedrandom";
import type { KilnError } from "../../core/errors.ts";
import { Registry } from "../../models/registry/registry.ts";
import { facts } from "./registry_facts.ts";

// A process that does random operations on a registry, and writes a line of JSON for each that succeeded; see registry.slow.test.ts.
// Arguments: the registry's folder, a seed, how many operations (0: until it is killed).

const refusals = ["version_missing", "version_in_use"];

async function work(folder: string, seed: number, count: number): Promise<void> {
  const registry = new Registry(folder);
  const random = seedrandom.alea(`${seed}`);
  const pick = <T>(values: readonly T[]) => values[Math.floor(random() * values.length)];
  const source = join(folder, `.source-${process.pid}`);
  mkdirSync(source, { recursive: true });
  const ack = (line: object) => void process.stdout.write(`${JSON.stringify(line)}\n`);
  for (let i = 0; count === 0 || i < count; i++) {
    const { versions, aliases } = await registry.model("m");
    const what = pick(["add", "add", "alias", "alias", "remove", "read", "verify"]);
    try {
      if (what === "add" || versions.length === 0) {
        const content = `${process.pid} ${i}`;
        for (const name of ["a", "b"]) writeFileSync(join(source, name), `${name} ${content}`);
        const { version } = await registry.add("m", source, { ...facts, note: content });
        ack({ added: version, content });
      } else if (what === "alias") {
        const version = pick(versions);
        await registry.alias("m", "prod", version);
        ack({ aliased: version });
      } else if (what === "remove") {
        const version = pick(versions);
        await registry.remove("m", version);
        ack({ removed: version });
      } else if (aliases.prod !== undefined) {
        // An alias that was set stands for a whole version at every moment.
        const found = await registry
          .find("m@prod")
          .catch((error) => ack({ failed: "find", error: `${error}` }));
        if (what !== "verify" || !found) continue;
        const problems = await registry.verify(`m@${found.version}`);
        if (problems.length > 0) ack({ failed: "verify", problems });
      }
    } catch (error) {
      if (!refusals.includes((error as KilnError).code)) ack({ failed: what, error: `${error}` });
    }
  }
  rmSync(source, { recursive: true });
}

const [folder, seed, count] = process.argv.slice(2);
await work(folder, Number(seed), Number(count));
