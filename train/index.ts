/** `kiln/train`: optimizers, schedules, data, the training step, and whole runs. */
export * from "./data/conversations/index.ts";
export * from "./data/index.ts";
export * from "./metrics/index.ts";
export * from "./optimizers/index.ts";
export * from "./optimizers/loss_scaler.ts";
export * from "./optimizers/schedules.ts";
export type {
  BatchSource,
  Evaluation,
  Evaluator,
  HostBatch,
  MakeSampler,
  Metrics,
  Recipe,
  RecipeContext,
  Sampler,
  Task,
} from "./recipe.ts";
export type { RunResult } from "./run.ts";
export { pretrain, runRecipe, type TrainOptions } from "./run_recipe.ts";
export { checkTrain, type RunSettings, runSettings, sampleSettings } from "./settings/run.ts";
export { type Objective, type StepResult, Trainer, type TrainerOptions } from "./trainer.ts";
