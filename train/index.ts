/** `kiln/train`: optimizers, schedules, data and the training step. */
export * from "./data/index.ts";
export * from "./optimizers/index.ts";
export * from "./optimizers/loss_scaler.ts";
export * from "./optimizers/schedules.ts";
export { type StepResult, Trainer, type TrainerOptions } from "./trainer.ts";
