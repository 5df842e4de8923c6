import type { MakeSampler } from "./recipe.ts";
import type { RunResult } from "./run.ts";

export interface PretrainOptions {
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
export async function pretrain({
  config,
  set = [],
  say = () => {},
  ...rest
}: PretrainOptions): Promise<RunResult> {
  // Loaded when called: pages that import kiln/train for its optimizers go without it.
  const [recipe, { parseOverrides }] = await Promise.all([
    import("./recipes/pretrain.ts"),
    import("./settings/load.ts"),
  ]);
  const settings = await recipe.loadPretrainConfig(config ?? null, parseOverrides(set));
  return recipe.pretrain({ config: settings, say, ...rest });
}
