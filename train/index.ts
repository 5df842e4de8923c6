/** `kiln/train`: optimizers, schedules, data, the training step, and whole runs. */
export * from "./data/index.ts";
export * from "./metrics/index.ts";
export * from "./optimizers/index.ts";
export * from "./optimizers/loss_scaler.ts";
export * from "./optimizers/schedules.ts";
export { type PretrainOptions, pretrain } from "./pretrain.ts";
export type { MakeSampler, Sampler } from "./recipe.ts";
export type { RunResult } from "./run.ts";
export { type StepResult, Trainer, type TrainerOptions } from "./trainer.ts";
