import { KilnError } from "../../core/errors.ts";
import { dispose, persist, scope } from "../../core/scope.ts";
import type { Tensor } from "../../core/tensor.ts";
import {
  Adagrad,
  Adam,
  AdamW,
  clipGradNorm,
  Muon,
  type Optimizer,
  Rmsprop,
  Sgd,
} from "../../train/optimizers/index.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";
import type { ScheduleFile } from "./schedules.ts";

/** Settings of a torch.optim optimizer, by its own names. */
type Settings = { lr: number } & Readonly<Record<string, unknown>>;

export interface OptimFile {
  steps: number;
  runs: { name: string; defaults: Settings }[];
  /** Norm of the gradients of step 0, which `clip.*` holds after clipping to 1. */
  clip_norm?: number;
  schedules?: ScheduleFile;
}

export function isOptimFile(json: unknown): json is OptimFile {
  return Array.isArray((json as Partial<OptimFile> | null)?.runs);
}

type OptimizerClass = new (parameters: ReadonlyMap<string, Tensor>, options: object) => Optimizer;

/** kiln's optimizers by the names that files give them. */
const classes: Record<string, OptimizerClass> = {
  sgd: Sgd,
  adam: Adam,
  adamw: AdamW,
  rmsprop: Rmsprop,
  adagrad: Adagrad,
  muon: Muon,
};

/** kiln's names of settings, where they are not torch's. */
const ownNames: Record<string, string> = {
  ...{ weight_decay: "weightDecay", lr_decay: "lrDecay" },
  ...{ ns_coefficients: "coefficients", ns_steps: "iterations" },
};

/**
 * A run's settings as options of kiln's class. What is null, false or 0 is off, as it is in kiln by default (AdamW's decay
 * alone is not, and is always given), also where kiln has no such option; anything else that it lacks is refused.
 */
function optionsOf(optimizer: string, settings: Settings): object {
  const isOff = (value: unknown) => value === null || value === false || value === 0;
  // A decoupled decay is what makes it AdamW.
  const isItself = (name: string) => optimizer === "adamw" && name === "decoupled_weight_decay";
  const given = Object.entries(settings).filter(([name, value]) => !isOff(value) && !isItself(name));
  return Object.fromEntries(given.map(([name, value]) => [ownNames[name] ?? name, value]));
}

const near = { atol: 1e-5, rtol: 1e-4 };

/**
 * Muon's reference rounds every matrix product to bfloat16, so another order of summation may move an entry of an update
 * by one step of bfloat16 (2^-8): that much of the learning rate is allowed for each step.
 */
function toleranceOf(name: string, { lr }: Settings, steps: number) {
  return name === "muon" ? { atol: (lr * steps) / 256 } : near;
}

/** Parameters after every step of each optimizer, and clipping by global norm. */
export async function verifyOptimizers(
  report: Report,
  folder: Folder,
  stem: string,
  prefix: string,
  json: OptimFile,
): Promise<void> {
  const names = [...json.runs.map((run) => run.name), "clip"].map((name) => `${prefix}/${name}`);
  if (!names.some((name) => report.wants(name))) return;
  const file = new TensorFile(folder, stem);
  for (const { name, defaults } of json.runs) {
    await report.check(`${prefix}/${name}`, () => runOptimizer(file, name, defaults, json.steps));
  }
  const { clip_norm: norm } = json;
  if (norm !== undefined) await report.check(`${prefix}/clip`, () => runClip(file, norm));
}

function parameterNames(file: TensorFile): string[] {
  return file
    .names()
    .filter((name) => name.startsWith("init."))
    .map((name) => name.slice("init.".length));
}

async function runOptimizer(
  file: TensorFile,
  name: string,
  settings: Settings,
  steps: number,
): Promise<Comparison> {
  if (!Object.hasOwn(classes, name)) throw new KilnError(`kiln has no optimizer ${name}`);
  const names = parameterNames(file).filter((p) => file.has(`${name}.0.${p}`));
  const parameters = new Map(names.map((p) => [p, persist(file.upload(`init.${p}`))]));
  const optimizer = new classes[name](parameters, optionsOf(name, settings));
  const comparisons: Comparison[] = [];
  for (let step = 0; step < steps; step++) {
    optimizer.lr = settings.lr;
    scope(() => optimizer.step(names.map((p) => file.upload(`grad.${step}.${p}`))));
    for (const [p, parameter] of parameters) {
      const want = file.floats(`${name}.${step}.${p}`);
      const where = `${p} after step ${step}`;
      comparisons.push(compare(await parameter.data(), want, toleranceOf(name, settings, steps), where));
    }
  }
  dispose([parameters, optimizer.state()]);
  return worst(comparisons);
}

async function runClip(file: TensorFile, wantedNorm: number): Promise<Comparison> {
  const names = parameterNames(file);
  const { norm, clipped } = scope(() =>
    clipGradNorm(
      names.map((p) => file.upload(`grad.0.${p}`)),
      1,
    ),
  );
  const comparisons = [compare(await norm.data(), [wantedNorm], near, "norm")];
  for (const [i, p] of names.entries())
    comparisons.push(compare(await clipped[i].data(), file.floats(`clip.${p}`), near, `clip.${p}`));
  dispose([norm, clipped]);
  return worst(comparisons);
}
