import { existsSync } from "node:fs";
import { copyFile, cp, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KilnError, usageError } from "../../core/errors.ts";
import { atomicWriteDirectory, currentDirectory, readJson, writeJson } from "../../core/platform/files.ts";
import { packageRoot } from "../../core/platform/package_node.ts";
import { CausalLM } from "../../models/decoder.ts";
import { writeSafetensors } from "../../models/formats/safetensors.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { ropeInverseFrequencies } from "../../models/llama_config.ts";
import type { Batch } from "../data/index.ts";
import { scheduleFactor } from "../optimizers/schedules.ts";
import type { Recipe } from "../recipe.ts";
import { recipes } from "../recipes/index.ts";
import { scheduleOf } from "../run.ts";
import { damageOf, newestCheckpoint, readTrainerState } from "../run_files.ts";
import { loadSettings } from "../settings/load.ts";
import type { RunSettings } from "../settings/run.ts";

/** The optimizers that train.py has. */
const known = ["adamw", "adam"];
/** Tokens of a file of batches, about. */
const shardTokens = 2 ** 21;

export interface TorchrunOptions {
  /** The folder to write; it must not exist. */
  out: string;
  /** Updates of the whole run, instead of those in its settings: to train on where it is finished. */
  steps?: number | undefined;
  say(line: string): void;
}

/** What was written: the update that it goes on after, those to come, and files of batches. */
export interface TorchrunExport {
  step: number;
  updates: number;
  shards: number;
}

/**
 * Hands a pretraining or chat-tuning run to torchrun: its newest checkpoint (or the one at `path`), the batches and the learning
 * rates of the updates to come, and a train.py that goes on with them. Throws a one-line KilnError for a run of another kind, one that
 * is finished, and settings that the script does not compute: other optimizers, adapters, f16, averaged weights, dropout.
 */
export async function exportTorchrun(
  path: string,
  { out, steps, say }: TorchrunOptions,
): Promise<TorchrunExport> {
  if (existsSync(out)) throw usageError(`${out} exists; remove it or give another --out`);
  const checkpoint = basename(dirname(path)) === "checkpoints" ? path : await newestCheckpoint(path);
  if (!checkpoint)
    throw new KilnError(
      `${path} has no checkpoint; --to torchrun takes the folder of a run, or one of its checkpoints`,
    );
  const damage = await damageOf(checkpoint);
  if (damage) throw new KilnError(damage, { code: "checkpoint_corrupt" });
  const { recipe, config } = await readRun(checkpoint, steps);
  const { train } = config;
  assertKnown(config);
  const saved = await readTrainerState(checkpoint);
  const context = { resumeFrom: checkpoint, makeSampler: () => async () => "", say };
  const task = await recipe.open(config, context);
  try {
    const { model, batches } = task;
    if (!(model instanceof CausalLM) || model.dropsOut)
      throw refused("dropout", "set the model's to 0, resume the run, and export it then");
    batches.restore(saved.data);
    const schedule = scheduleOf(train, batches.rowsPerEpoch);
    const updates = schedule.total_steps - saved.step;
    if (updates <= 0)
      throw new KilnError(`${checkpoint} is finished: ${saved.step} updates; to train on, give more --steps`);
    const rows = train.batch_size * train.gradient_accumulation_steps;
    const perShard = Math.max(1, Math.floor(shardTokens / (rows * train.sequence_length)));
    const { name, weight_decay, betas, eps } = train.optimizer as Record<string, unknown>;
    const plan = {
      step: saved.step,
      batch_size: train.batch_size,
      gradient_accumulation_steps: train.gradient_accumulation_steps,
      max_grad_norm: train.max_grad_norm,
      optimizer: { name, weight_decay, betas, eps },
      schedule,
      learning_rates: Array.from(
        { length: updates },
        (_, i) => train.learning_rate * scheduleFactor(schedule, saved.step + i),
      ),
      updates_per_shard: perShard,
      inverse_frequencies:
        model instanceof LlamaForCausalLM ? Array.from(ropeInverseFrequencies(model.config)) : null,
    };
    const shards = Math.ceil(updates / perShard);
    await atomicWriteDirectory(out, async (folder) => {
      await cp(await currentDirectory(checkpoint), join(folder, "checkpoint"), { recursive: true });
      await mkdir(join(folder, "data"));
      for (let i = 0; i < shards; i++) {
        const count = Math.min(perShard, updates - i * perShard);
        const all = Array.from({ length: count * train.gradient_accumulation_steps }, () => batches.next());
        await writeBatches(join(folder, "data", `${String(i).padStart(5, "0")}.safetensors`), all, [
          count,
          rows,
          train.sequence_length,
        ]);
      }
      await writeJson(join(folder, "plan.json"), plan);
      await copyFile(join(packageRoot, "train/deploy/train.py"), join(folder, "train.py"));
    });
    return { step: saved.step, updates, shards };
  } finally {
    task.close();
  }
}

type Settings = RunSettings & { adapter?: { kind: string } };

/** The recipe of a run whose batches are packed rows of tokens, and its settings on resuming from that checkpoint. */
async function readRun(checkpoint: string, steps?: number) {
  const out_dir = dirname(dirname(checkpoint));
  const given = await readJson(join(out_dir, "config.json"));
  for (const name of ["pretrain", "sft"]) {
    const recipe = (await recipes[name].load()) as unknown as Recipe<Settings, Batch>;
    // Every recipe has settings that the others refuse.
    if (!recipe.schema.safeParse(given).success) continue;
    const set = (path: string, value: unknown) => ({ path: path.split("."), value, from: "--steps" });
    const overrides = [set("out_dir", out_dir), set("resume", basename(checkpoint))];
    if (steps !== undefined) overrides.push(set("train.steps", steps));
    return { recipe, config: await loadSettings(recipe, null, overrides) };
  }
  throw new KilnError(
    `${out_dir} is no run of kiln train pretrain or sft, whose batches --to torchrun hands on`,
  );
}

const refused = (what: string, remedy: string) =>
  usageError(`--to torchrun: train.py has no ${what}; ${remedy}`, "torchrun_unsupported");

function assertKnown({ train, adapter }: Settings): void {
  const { optimizer, compute_dtype, ema_decay } = train;
  if (!known.includes(optimizer.name))
    throw refused(
      `optimizer ${optimizer.name}`,
      `it knows ${known.join(" and ")}: start such a run from these weights`,
    );
  if (adapter && adapter.kind !== "none")
    throw refused("adapters", "train the model whole, or export the merged one with --to hf");
  if (compute_dtype === "f16") throw refused("f16", "resume the run with --compute-dtype f32 first");
  if (ema_decay > 0) throw refused("averaged weights", "resume the run with --set train.ema_decay=0 first");
}

/** The micro-batches of some updates in one file, each array as [updates, rows, tokens] i32. */
async function writeBatches(path: string, batches: readonly Batch[], shape: number[]): Promise<void> {
  const joined = (field: "tokens" | "targets" | "positions" | "segments") => {
    const values = new Int32Array(shape.reduce((a, b) => a * b));
    batches.forEach((batch, i) => {
      values.set(batch[field], i * batch[field].length);
    });
    return { dtype: "I32" as const, shape, bytes: new Uint8Array(values.buffer) };
  };
  const fields = ["tokens", "targets", "positions", "segments"] as const;
  await writeSafetensors(path, new Map(fields.map((field) => [field, joined(field)])));
}
