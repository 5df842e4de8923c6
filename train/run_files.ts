import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { loadWeights, writeModelFiles } from "../models/checkpoint.ts";
import { atomicWriteDirectory, currentDirectory, readJson, writeJson } from "../models/files.ts";
import {
  type HostTensor,
  readModelWeights,
  readSafetensors,
  toFloat32,
  writeSafetensors,
} from "../models/safetensors.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { DataCursor } from "./data/index.ts";

/** Everything about a run, besides weights and optimizer moments, that the next step depends on. */
export interface TrainerState {
  format: "kiln-trainer";
  version: 1;
  /** Updates done. */
  step: number;
  data: DataCursor;
  tokens_seen: number;
  best_validation_loss: number | null;
  /** Hash of the settings that decide the numbers: a run resumes only with the same ones. */
  settings_hash: string;
}

/** What a checkpoint is made of: a model directory that others can load, plus what only training needs. */
export interface RunState {
  model: CausalLM;
  tokenizer: Tokenizer;
  /** What the optimizer and the trainer keep, by name. */
  tensors: ReadonlyMap<string, Tensor>;
}

const checkpointName = /^step-(\d+)$/;

/** Writes `checkpoints/step-N` of a run, whole or not at all, then removes all but the newest `keep`. */
export async function saveCheckpoint(
  runDir: string,
  run: RunState,
  state: TrainerState,
  keep: number,
): Promise<string> {
  const folder = join(runDir, "checkpoints");
  const directory = join(folder, `step-${String(state.step).padStart(6, "0")}`);
  await atomicWriteDirectory(directory, async (temporary) => {
    await writeModelFiles(temporary, run.model, run.tokenizer);
    await writeSafetensors(join(temporary, "optimizer.safetensors"), await readTensors(run.tensors));
    await writeJson(join(temporary, "trainer_state.json"), state);
  });
  const names = (await listCheckpoints(runDir)).slice(0, -keep);
  for (const name of names) await rm(join(folder, name), { recursive: true, force: true });
  return directory;
}

/** Checkpoint folders of a run, oldest first. */
export async function listCheckpoints(runDir: string): Promise<string[]> {
  const names = await readdir(join(runDir, "checkpoints")).catch(() => []);
  const stepOf = (name: string) => Number(checkpointName.exec(name)![1]);
  return names.filter((name) => checkpointName.test(name)).sort((a, b) => stepOf(a) - stepOf(b));
}

/** The newest checkpoint of a run, or null when it has none. */
export async function newestCheckpoint(runDir: string): Promise<string | null> {
  const newest = (await listCheckpoints(runDir)).at(-1);
  return newest ? join(runDir, "checkpoints", newest) : null;
}

/** Puts a checkpoint's weights and moments back and returns the rest. */
export async function loadCheckpoint(
  path: string,
  run: RunState,
  settingsHash: string,
): Promise<TrainerState> {
  const directory = await currentDirectory(path);
  const state = (await readJson(join(directory, "trainer_state.json"))) as TrainerState;
  if (state.format !== "kiln-trainer" || state.version !== 1) {
    throw new KilnError(`${path} was not written by this version of kiln train; start a new run`, {
      code: "checkpoint_corrupt",
    });
  }
  if (state.settings_hash !== settingsHash) {
    throw new KilnError(
      `${path} belongs to a run with other settings; resume with the settings in its config.json, or give another out_dir`,
      { code: "settings_differ" },
    );
  }
  loadWeights(run.model, await readModelWeights(directory));
  const saved = await readSafetensors(join(directory, "optimizer.safetensors"));
  for (const [name, tensor] of run.tensors) {
    const found = saved.get(name);
    if (!found)
      throw new KilnError(
        `${path}/optimizer.safetensors has no ${name}; the checkpoint does not fit this run`,
      );
    tensor.write(toFloat32(found));
  }
  return state;
}

async function readTensors(tensors: ReadonlyMap<string, Tensor>): Promise<Map<string, HostTensor>> {
  const out = new Map<string, HostTensor>();
  for (const [name, tensor] of tensors) {
    const values = Float32Array.from(await tensor.data());
    out.set(name, { dtype: "F32", shape: [...tensor.shape], bytes: new Uint8Array(values.buffer) });
  }
  return out;
}
