import type { HostBatch, MakeSampler, Recipe } from "./recipe.ts";
import type { RunResult } from "./run.ts";
import type { RunSettings } from "./settings/run.ts";

export interface TrainOptions {
  /** A YAML file of settings; every setting has a default. */
  config?: string;
  /** Settings on top, as of `--set`: `"train.steps=200"`. `kiln settings` lists them. */
  set?: readonly string[];
  /** How progress is sampled: `samplerOf` of `kiln/serve`. */
  makeSampler: MakeSampler;
  /** Told each line of progress, `console.log` for example. */
  say?: (line: string) => void;
  /** Stops after the running step, with a checkpoint. */
  signal?: AbortSignal;
}

/**
 * Trains a language model on text as `kiln train pretrain` does, in a run folder (`out_dir`) with a log, checkpoints and the
 * finished model, which `loadModel` reads. Node only.
 *
 * @throws KilnError for settings that cannot be used, and if `signal` stopped it
 */
export async function pretrain(options: TrainOptions): Promise<RunResult> {
  return runRecipe((await import("./recipes/pretrain.ts")).recipe, options);
}

/**
 * Trains by a recipe of your own, as `kiln train` does by its recipes: the loop, the run folder, resuming. Node
 * only.
 *
 * @throws KilnError for settings that cannot be used, and if `signal` stopped it
 */
export async function runRecipe<C extends RunSettings, B extends HostBatch, I extends object>(
  recipe: Recipe<C, B, I>,
  { config, set = [], say = () => {}, ...rest }: TrainOptions,
): Promise<RunResult> {
  // Loaded when called: pages that import kiln/train for its optimizers go without it.
  const [{ run }, { loadSettings, parseOverrides }] = await Promise.all([
    import("./run.ts"),
    import("./settings/load.ts"),
  ]);
  const settings = await loadSettings(recipe, config ?? null, parseOverrides(set));
  return run(recipe, { config: settings, say, ...rest });
}
