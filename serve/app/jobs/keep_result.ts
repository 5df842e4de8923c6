import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type AddOptions, addModel } from "../../../models/registry/describe.ts";
import { type RegisteredVersion, Registry } from "../../../models/registry/registry.ts";
import type { Job } from "../../store/jobs.ts";
import type { LogRecord } from "./follow.ts";
import { jobLimits } from "./limits.ts";
import { type FineTuned, payloadOf } from "./payload.ts";

/** Puts what a run in the folder `out` trained into the registry as the live version, of which the newest few are kept. */
export async function keepResult(job: Job, out: string, registry = new Registry()): Promise<FineTuned> {
  const { name, base, publish } = payloadOf(job);
  const note = `fine-tune ${job.id}`;
  const added = await addOnce(name, join(out, "model"), { registry, base, note });
  await registry.alias(name, "live", added.version);
  const { versions } = await registry.model(name);
  for (const old of versions.filter((one) => one <= added.version).slice(0, -jobLimits.versions))
    await registry.remove(name, old).catch(() => {}); // in use: the next fine-tune tries again
  const published = publish
    ? await addOnce(publish, join(out, "merged"), { registry, note: `${note}, of ${base}` })
    : null;
  return {
    ...{ version: `${name}@${added.version}`, base, ...numbersOf(out), samples: samplesOf(out) },
    published: published && `${published.name}@${published.version}`,
  };
}

type Added = AddOptions & { registry: Registry };

/** Adds a version, if it is not the newest already: a worker may have been lost after that and before it could say so. */
async function addOnce(name: string, path: string, options: Added): Promise<RegisteredVersion> {
  const { versions } = await options.registry.model(name);
  const newest = versions.length === 0 ? null : await options.registry.find(`${name}@${versions.at(-1)}`);
  return newest !== null && newest.note === options.note ? newest : addModel(name, path, options);
}

function numbersOf(out: string): Pick<FineTuned, "steps" | "loss" | "validation_loss"> {
  const lines = readFileSync(join(out, "log.jsonl"), "utf8").split("\n").filter(Boolean);
  const records = lines.map((line) => JSON.parse(line) as LogRecord);
  const of = (key: string) => records.flatMap((record) => record[key] ?? []);
  const [losses, validation] = [of("loss"), of("validation_loss")];
  // One batch may be much harder than another.
  const part = Math.ceil(losses.length / 10);
  return {
    steps: Math.max(0, ...records.map(({ step }) => step)),
    loss: { first: mean(losses.slice(0, part)), last: mean(losses.slice(-part)) },
    validation_loss: {
      first: validation[0] ?? null,
      best: validation.length === 0 ? null : Math.min(...validation),
    },
  };
}

const mean = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;

/** What the model wrote before and after. */
function samplesOf(out: string): FineTuned["samples"] {
  const file = join(out, "samples.txt");
  if (!existsSync(file)) return { before: [], after: [] };
  const parts = readFileSync(file, "utf8")
    .split(/^=== step (\d+) ===\n/m)
    .slice(1);
  const samples = parts.flatMap((step, i) =>
    i % 2 === 0 ? [{ step: Number(step), text: parts[i + 1]!.trim() }] : [],
  );
  const last = Math.max(0, ...samples.map(({ step }) => step));
  const at = (wanted: number) => samples.flatMap(({ step, text }) => (step === wanted ? [text] : []));
  return { before: at(0), after: last === 0 ? [] : at(last) };
}
