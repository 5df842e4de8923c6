import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KilnError } from "../core/errors.ts";
import type { DecoderConfig } from "../models/auto.ts";
import { leaves, type PretrainConfig } from "./config.ts";
import { checksumFile, damageOf, listCheckpoints, readTrainerState } from "./run_files.ts";

/** What a run goes on from, and what may be different then. */

/** The command line that trains with these arguments, as a shell takes it. */
export function trainCommand(...args: string[]): string {
  const quoted = args.map((arg) => (/^[\w./:=+-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`));
  return ["npx kiln train pretrain", ...quoted].join(" ");
}

/**
 * The checkpoint to go on from, every file of it checked; null for a new run. Throws a KilnError where the folder holds
 * a run and `resume` is not set, where it holds none and `resume` is, and where the checkpoint is damaged: the error
 * then names the newest whole one and the command that takes it.
 */
export async function resumePoint({ out_dir, resume }: PretrainConfig): Promise<string | null> {
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
      `${damage}; the older checkpoint ${older} is whole: go on from it with ${trainCommand("--out", out_dir, "--resume-from", older)}`,
      { code: "checkpoint_corrupt" },
    );
  }
  throw new KilnError(`${damage}; no older checkpoint is whole: start anew with another --out`, {
    code: "checkpoint_corrupt",
  });
}

/** Everything that decides a run's numbers, by dotted name. Where data lies does not: its content does. */
export function decisiveSettings(
  config: PretrainConfig,
  decided: { model: DecoderConfig; steps: number; tokenizer: string; data: string },
): Record<string, unknown> {
  const { steps: _s, epochs: _e, ...train } = config.train;
  const { path: _p, validation_path: _v, corpus: _c, ...data } = config.data;
  const { model, steps, tokenizer, data: content } = decided;
  const all = { train: { steps, ...train }, data: { content, ...data }, model, tokenizer };
  return Object.fromEntries(leaves(all).map(({ path, value }) => [path.join("."), value]));
}

/** Settings with which a checkpoint means the same: the rest decides what its weights, moments or place in the data are. */
const changeable =
  /^train\.(steps|batch_size|gradient_accumulation_steps|learning_rate|min_lr_ratio|warmup_steps|schedule|weight_decay|betas|eps|max_grad_norm|compute_dtype|loss_scale\..*)$|^model\.(attention_dropout|\w+_pdrop)$/;

/**
 * What differs from the settings that a checkpoint was saved with, one text a setting. Throws a KilnError that names
 * all differences which a resumed run cannot have.
 */
export function changesSince(
  saved: Record<string, unknown>,
  now: Record<string, unknown>,
  path: string,
): string[] {
  // Saved ones went through JSON.
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
