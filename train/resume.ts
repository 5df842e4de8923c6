import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../core/errors.ts";
import { checksumFile, damageOf, listCheckpoints, readTrainerState } from "./run_files.ts";
import { currentName, leaves } from "./settings/load.ts";
import type { RunSettings } from "./settings/run.ts";

/** The checkpoint that a run goes on from, and the settings that may differ then. */

/** The command line that trains by a recipe with these arguments, as a shell takes it. */
export function trainCommand(recipe: string, ...args: string[]): string {
  const quoted = args.map((arg) => (/^[\w./:=+-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`));
  return [`npx kiln train ${recipe}`, ...quoted].join(" ");
}

/**
 * The checkpoint to go on from, every file of it checked; null for a new run. Throws a KilnError where the folder holds
 * a run and `resume` is not set, where it holds none and `resume` is, and where the checkpoint is damaged: the error
 * then names the newest whole one and the command that takes it.
 */
export async function resumePoint(
  recipe: string,
  { out_dir, resume }: Pick<RunSettings, "out_dir" | "resume">,
): Promise<string | null> {
  const names = await listCheckpoints(out_dir);
  if (!resume) {
    if (names.length === 0) return null;
    throw new KilnError(
      `${out_dir} holds a run already; add --resume to go on with it, or give another --out`,
    );
  }
  const name = resume === true ? names.at(-1) : names.find((known) => known === resume);
  if (name === undefined) {
    const problem =
      names.length === 0
        ? "has no checkpoint to resume from; leave --resume out to start the run"
        : `has no checkpoint ${resume}; it has ${names.join(", ")}`;
    throw new KilnError(`${out_dir} ${problem}`, { code: "checkpoint_missing" });
  }
  const path = (known: string) => join(out_dir, "checkpoints", known);
  const damage = await damageOf(path(name));
  if (damage === null) return path(name);
  // An older version wrote no checksums: its checkpoints must not be called damaged.
  if (!existsSync(join(path(name), checksumFile))) await readTrainerState(path(name));
  for (const older of names.slice(0, names.indexOf(name)).reverse()) {
    if ((await damageOf(path(older))) !== null) continue;
    throw new KilnError(
      `${damage}; the older checkpoint ${older} is whole: go on from it with ${trainCommand(recipe, "--out", out_dir, "--resume-from", older)}`,
      { code: "checkpoint_corrupt" },
    );
  }
  throw new KilnError(`${damage}; no older checkpoint is whole: start again with another --out`, {
    code: "checkpoint_corrupt",
  });
}

/** Everything that decides a run's numbers, by dotted name: the settings of `train`, and a recipe's own in `others`. */
export function decisiveSettings(
  { steps: _s, epochs: _e, ...train }: RunSettings["train"],
  steps: number,
  others: Record<string, unknown>,
): Record<string, unknown> {
  const all = { train: { steps, ...train }, ...others };
  return Object.fromEntries(leaves(all).map(({ path, value }) => [path.join("."), value]));
}

/** Settings that may change on resuming. All others decide what the weights, moments or data cursor of a checkpoint mean. */
const changeable =
  /^train\.(steps|batch_size|gradient_accumulation_steps|learning_rate|min_lr_ratio|warmup_steps|schedule|optimizer\.(?!name$)\w+|max_grad_norm|gradient_checkpointing|ema_decay|compute_dtype|loss_scale\..*)$|^model\.(attention_dropout|\w+_pdrop)$/;

/**
 * The differences from the settings that a checkpoint was saved with, one text per setting. Throws a KilnError that names
 * all of those that a resumed run cannot have.
 */
export function changesSince(
  before: Record<string, unknown>,
  now: Record<string, unknown>,
  path: string,
): string[] {
  // A checkpoint of an older version names no optimizer: it was AdamW.
  const renamed = Object.entries(before).map(([name, value]) => [currentName(name), value]);
  const saved: Record<string, unknown> = { "train.optimizer.name": "adamw", ...Object.fromEntries(renamed) };
  // The saved settings went through JSON.
  const current = JSON.parse(JSON.stringify(now)) as Record<string, unknown>;
  const names = [...new Set([...Object.keys(saved), ...Object.keys(current)])];
  const differing = names.filter((name) => !isDeepStrictEqual(saved[name], current[name]));
  const fixed = differing.filter((name) => !changeable.test(name));
  const text = (name: string) => `${name} ${shown(saved[name])} -> ${shown(current[name])}`;
  if (fixed.length > 0) {
    throw new KilnError(
      `${path} belongs to a run with other settings, and these cannot change: ${fixed.map(text).join(", ")}; ` +
        "leave them out to go on, or start a new run from its weights: --init-from and another --out",
      { code: "settings_differ" },
    );
  }
  return differing.map(text);
}

function shown(value: unknown): string {
  return value === undefined
    ? "nothing"
    : typeof value === "string"
      ? value.slice(0, 12)
      : JSON.stringify(value);
}
