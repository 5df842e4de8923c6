/** `kiln/train`: optimizers, schedules, the training step, and the built-in recipes. */
export * from "./data/index.ts";
export * from "./optimizers/index.ts";
export * from "./optimizers/loss_scaler.ts";
export * from "./optimizers/schedules.ts";
export { type StepResult, Trainer, type TrainerOptions } from "./trainer.ts";
