import { dispose } from "../../core/scope.ts";
import { AdamW } from "../../train/optimizers/index.ts";
import { scheduleFactor, scheduleName } from "../../train/optimizers/schedules.ts";
import { Trainer } from "../../train/trainer.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { loadFixture, subjectOf } from "./models.ts";
import { compare, type Report, worst } from "./report.ts";

/** `expected.json` of a training run. */
export interface CurveExpectation {
  class?: string;
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  schedule: string;
  warmup: number;
  steps: number;
  /** Largest gradient norm. */
  clip: number;
  losses: number[];
  /** Before clipping. */
  grad_norms: number[];
}

/** Trains as the reference did: the loss of every step within 1e-3, its gradient norm within 1e-3 of itself. */
export async function verifyCurve(report: Report, folder: Folder, expected: CurveExpectation): Promise<void> {
  const name = folder.name || "curve";
  const names = { losses: `${name}/losses`, norms: `${name}/grad_norms` };
  if (!report.wants(names.losses) && !report.wants(names.norms)) return;
  const { losses, norms } = await train(folder, expected);
  const each = (got: number[], want: number[], tolerance: { atol: number; rtol?: number }) =>
    worst(want.map((value, step) => compare([got[step]], [value], tolerance, `step ${step}`)));
  await report.check(names.losses, () => each(losses, expected.losses, { atol: 1e-3 }));
  await report.check(names.norms, () => each(norms, expected.grad_norms, { atol: 0, rtol: 1e-3 }));
}

async function train(folder: Folder, expected: CurveExpectation) {
  const file = new TensorFile(folder, "batches");
  const model = await loadFixture(folder.path);
  const optimizer = new AdamW(model.namedParameters(), {
    betas: expected.betas,
    eps: expected.eps,
    weightDecay: expected.weight_decay,
    decays: (_name, parameter) => parameter.rank >= 2,
  });
  const [, length] = file.get("input_ids.0").shape as [number, number];
  const options = { maxGradNorm: expected.clip, sequenceLength: length };
  const subject = subjectOf(model, file);
  const trainer = new Trainer(model, optimizer, options, {
    upload: ({ suffix }: { suffix: string; supervised: number }) => subject.inputs(suffix),
    loss: (inputs) => subject.model.loss(inputs as never),
  });
  const schedule = {
    name: scheduleName(expected.schedule),
    warmup_steps: expected.warmup,
    total_steps: expected.steps,
  };
  const losses: number[] = [];
  const norms: number[] = [];
  for (let step = 0; step < expected.steps; step++) {
    const suffix = `.${step}`;
    const batch = { suffix, supervised: subject.supervised(suffix) };
    const result = trainer.step([batch], expected.lr * scheduleFactor(schedule, step));
    losses.push((await result.lossSum.item()) / result.supervised);
    norms.push(await result.gradNorm.item());
    dispose([result.lossSum, result.gradNorm]);
  }
  dispose([model.parameters(), optimizer.state()]);
  return { losses, norms };
}
