import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { KilnError } from "../core/errors.ts";
import {
  atomicWriteDirectory,
  currentDirectory,
  readError,
  readJson,
  writeJson,
} from "../core/platform/files.ts";
import type { Tensor } from "../core/tensor.ts";
import { loadWeights, readTensors, writeModelFiles } from "../models/formats/hf_directory.ts";
import { restoreAdapter, writeAdapterFiles } from "../models/formats/peft_directory.ts";
import {
  readModelWeights,
  readSafetensors,
  toNumbers,
  writeSafetensors,
} from "../models/formats/safetensors.ts";
import type { Model } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { DataCursor } from "./data/index.ts";
import type { Trainer } from "./trainer.ts";

/** The best model so far: the update it came from, and the number that it was chosen by, under its name. */
export type Best = { step: number } & Record<string, number>;

/** Everything about a run, besides weights and optimizer moments, that the next step depends on. */
export interface TrainerState {
  format: "kiln-trainer";
  version: 2;
  /** Updates done. */
  step: number;
  data: DataCursor;
  tokens_seen: number;
  best: Best | null;
  /** The settings that decide the numbers, by dotted name, e.g. `train.learning_rate`. */
  settings: Record<string, unknown>;
}

/** The parts of a checkpoint: a directory of the model or of its adapter that others can load, and what only training needs. */
export interface CheckpointParts {
  model: Model<never>;
  tokenizer: Tokenizer;
  /** The trainer's state, by name. */
  tensors: ReadonlyMap<string, Tensor>;
}

const checkpointName = /^step-(\d+)$/;
/** Holds the SHA-256 of every other file of a checkpoint. */
export const checksumFile = "checksums.json";

/**
 * Writes `checkpoints/step-N` of a run, whole or not at all, then removes all but the newest `keep`.
 * Throws a KilnError (`values_not_finite`) where a weight or a moment is NaN or infinite; nothing is written then.
 */
export async function saveCheckpoint(
  runDir: string,
  { model, tokenizer, tensors }: CheckpointParts,
  state: TrainerState,
  keep: number,
): Promise<string> {
  const folder = join(runDir, "checkpoints");
  const directory = join(folder, `step-${String(state.step).padStart(6, "0")}`);
  await atomicWriteDirectory(directory, async (temporary) => {
    await writeTrained(temporary, model, tokenizer);
    await writeSafetensors(join(temporary, "optimizer.safetensors"), await readTensors(tensors));
    await writeJson(join(temporary, "trainer_state.json"), state);
    const names = (await readdir(temporary)).sort();
    const hashes: Record<string, string> = {};
    for (const name of names) hashes[name] = await sha256(join(temporary, name));
    await writeJson(join(temporary, checksumFile), { sha256: hashes });
  });
  const names = (await listCheckpoints(runDir)).slice(0, -keep);
  for (const name of names) await rm(join(folder, name), { recursive: true, force: true });
  return directory;
}

/** Writes what is trained, the model or its active adapter as PEFT has it, with the tokenizer. */
export async function writeTrained(
  directory: string,
  model: Model<never>,
  tokenizer: Tokenizer,
): Promise<void> {
  if (!model.adapter) return writeModelFiles(directory, model, tokenizer);
  await writeAdapterFiles(directory, model);
  tokenizer.save(directory);
}

/** Puts what `writeTrained` wrote back. */
async function loadTrained(path: string, model: Model<never>): Promise<void> {
  const directory = await currentDirectory(path);
  if (model.adapter) await restoreAdapter(directory, model);
  else loadWeights(model, await readModelWeights(directory));
}

/** Writes the best model so far to `best/` of a run, with its measurement. */
export async function saveBest(
  runDir: string,
  model: Model<never>,
  tokenizer: Tokenizer,
  measured: object,
): Promise<void> {
  await atomicWriteDirectory(join(runDir, "best"), async (temporary) => {
    await writeTrained(temporary, model, tokenizer);
    await writeJson(join(temporary, "validation.json"), measured);
  });
}

/** Puts the weights of `best/` of a run into the model. */
export async function loadBest(runDir: string, model: Model): Promise<void> {
  await loadTrained(join(runDir, "best"), model);
}

/** Whether `best/` holds the model that a checkpoint calls the best; a later one may have taken its place since. */
export async function keepsBest(runDir: string, best: Best): Promise<boolean> {
  const path = join(runDir, "best", "validation.json");
  const kept = (await readJson(path).catch(() => null)) as Best | null;
  return Object.entries(best).every(([name, value]) => kept?.[name] === value);
}

/** Checkpoint folders of a run, oldest first. */
export async function listCheckpoints(runDir: string): Promise<string[]> {
  const names = await readdir(join(runDir, "checkpoints")).catch(() => []);
  return names.filter((name) => checkpointName.test(name)).sort((a, b) => stepOf(a) - stepOf(b));
}

/** The number of updates of a checkpoint, from its folder's name. */
export function stepOf(name: string): number {
  return Number(checkpointName.exec(name)![1]);
}

/** The newest checkpoint of a run, or null when it has none. */
export async function newestCheckpoint(runDir: string): Promise<string | null> {
  const newest = (await listCheckpoints(runDir)).at(-1);
  return newest ? join(runDir, "checkpoints", newest) : null;
}

/** What is wrong with a checkpoint, in words, or null if every file is as it was written. */
export async function damageOf(path: string): Promise<string | null> {
  try {
    const directory = await currentDirectory(path);
    const list = (await readJson(join(directory, checksumFile))) as { sha256: Record<string, string> };
    for (const [name, expected] of Object.entries(list.sha256)) {
      const found = await sha256(join(directory, name));
      if (found !== expected)
        return `${join(path, name)} is damaged: its checksum is not the one it was saved with`;
    }
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash).catch((error) => {
    throw readError(path, error);
  });
  return hash.digest("hex");
}

/** Moves checkpoints newer than `path` out of the way of what will be saved; returns their new places. */
export async function setAsideNewer(path: string): Promise<string[]> {
  const folder = dirname(path);
  const newer = (await listCheckpoints(dirname(folder))).filter(
    (name) => stepOf(name) > stepOf(basename(path)),
  );
  const moved: string[] = [];
  for (const name of newer) {
    const to = join(folder, `set-aside-${name}`);
    await rm(to, { recursive: true, force: true });
    await rename(join(folder, name), to);
    moved.push(to);
  }
  return moved;
}

/** Reads what a checkpoint knows besides tensors. Throws where another version of kiln wrote it. */
export async function readTrainerState(path: string): Promise<TrainerState> {
  const directory = await currentDirectory(path);
  const state = (await readJson(join(directory, "trainer_state.json"))) as TrainerState;
  if (state.format === "kiln-trainer" && state.version === 2) return state;
  throw new KilnError(
    `${path} was written by another version of kiln, which this one cannot go on with exactly; ` +
      `start a new run from its weights: --init-from ${path}, with another --out`,
    { code: "checkpoint_version" },
  );
}

/** Restores a checkpoint's weights and the trainer's state after `steps` updates. */
export async function loadCheckpoint(
  path: string,
  model: Model<never>,
  trainer: Pick<Trainer, "restore">,
  steps: number,
): Promise<void> {
  const directory = await currentDirectory(path);
  await loadTrained(directory, model);
  const saved = await readSafetensors(join(directory, "optimizer.safetensors"));
  trainer.restore(steps, (name) => {
    const tensor = saved.get(name);
    return tensor && toNumbers(tensor);
  });
}
