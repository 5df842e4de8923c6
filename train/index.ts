export { loadPretrainConfig, type PretrainConfig, parsePretrainConfig } from "./config.ts";
export { type Batch, IGNORE, PackedBatches } from "./data/packing.ts";
export { story, storyCorpus } from "./data/stories/grammar.ts";
export * from "./optimizers/index.ts";
export { type ScheduleConfig, type ScheduleName, scheduleFactor } from "./optimizers/schedules.ts";
export { pretrain } from "./recipes/pretrain.ts";
export type { MakeSampler, PretrainOptions, PretrainResult, Sampler } from "./run.ts";
export { type StepResult, Trainer, type TrainerOptions } from "./trainer.ts";
