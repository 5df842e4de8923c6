import type { CausalLM } from "../models/decoder.ts";
import type { TextGeneration } from "../models/generation.ts";
import type { Model, TokenBatch } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { DataCursor } from "./data/index.ts";
import type { SettingsOf } from "./settings/load.ts";
import type { RunSettings } from "./settings/run.ts";
import type { Objective, Trainer } from "./trainer.ts";

/** The seam between the loop (`run.ts`) and a kind of training; docs/adding-a-recipe.md shows how to add one. */

/** A kind of training: its settings `C`, and what is made of them; `B` and `I` are those of its objective. */
export interface Recipe<C extends RunSettings, B extends HostBatch, I extends object = TokenBatch>
  extends SettingsOf<C> {
  /** Refuses settings that no run can have, before anything is written. Throws a KilnError. */
  check?(config: C): void;
  /** Settings that depend on the data; what is fitted once stays as it is. */
  fit?(config: C): Promise<C>;
  /** What would be learned of the data, as text for a terminal (with colours) or not; trains nothing. */
  preview?(config: C, isTerminal: boolean): Promise<string>;
  /** Reads the data and makes the model. Says what it found. */
  open(config: C, context: RecipeContext): Promise<Task<B, I>>;
}

/** What `open` gets besides the settings. */
export interface RecipeContext {
  /** The checkpoint directory that the run goes on from; the loop loads its weights. Null for a new run. */
  resumeFrom: string | null;
  makeSampler: MakeSampler;
  /** Prints a line for the person who watches. */
  say: (line: string) => void;
  signal?: AbortSignal | undefined;
}

/** Continues a prompt (text, or token ids as they are) with the model in training; made by the caller, since generation is the server's. */
export type Sampler = (
  prompt: string | readonly number[],
  options: { max_tokens: number; temperature: number; seed: number },
) => Promise<string>;

/** Called once the model exists; returns how to sample from it. */
export type MakeSampler = (model: CausalLM, tokenizer: Tokenizer) => Sampler;

/** What writes the answers of a model under evaluation; made by the caller for the same reason. */
export type MakeGenerator = (model: CausalLM, tokenizer: Tokenizer) => TextGeneration;

/** What the loop trains, on what, and how it is measured. */
export interface Task<B extends HostBatch, I extends object = TokenBatch> {
  model: Model<never>;
  /** Saved beside the model. */
  tokenizer: Tokenizer;
  batches: BatchSource<B>;
  /** How a batch becomes a loss; by default packed token rows meet the model's own loss. */
  objective?: Objective<B, I>;
  evaluation: Evaluation<B>;
  /** Measured once, at the end: data that chose neither the step nor a setting. */
  test?: Evaluation<B> | undefined;
  /** Texts that show the progress; `seed` differs from step to step. */
  sample?(seed: number): Promise<string[]>;
  /** Checks the trained model and writes what the run folder holds besides `model/`, before that is written. */
  conclude?(outDir: string): Promise<void>;
  /** What decides the numbers of a run besides the settings of `train`: resuming refuses a checkpoint where it differs. */
  decisive: Record<string, unknown>;
  close(): void;
}

/** A batch on the host. */
export interface HostBatch {
  /** Places (tokens, examples) whose losses are summed: what the sum is divided by. */
  supervised: number;
  /** Tokens that the model reads, for the counts of the log; any array of that length. */
  tokens: ArrayLike<number>;
}

/** Endless batches in an order that follows from a cursor alone. */
export interface BatchSource<B> {
  readonly rowsPerEpoch: number;
  next(): B;
  state(): DataCursor;
  restore(cursor: DataCursor): void;
}

/** Numbers of a measurement by name; null if there is nothing to measure. They go to the log and to TensorBoard. */
export type Metrics = Readonly<Record<string, number | null>>;

/**
 * What a measurement needs of the trainer: the sum of the losses of a batch, compiled once for all batches of a shape. `turn` waits
 * before each where somebody else wants the device.
 */
export type Evaluator<B> = Pick<Trainer<B & HostBatch>, "evaluate"> & { turn?(): Promise<void> };

/** Measures the model on held-out data. */
export interface Evaluation<B> {
  /** The number that decides which model is the best. A name ending in `_loss` is better lower, any other higher. */
  readonly criterion: string;
  /** Whether `sample` measures the whole set. */
  readonly samplesAll: boolean;
  /** Size of the whole set, for people: "14,000 held-out tokens". */
  readonly size: string;
  /** Within the budget, on the same data each time; null where nothing is held out. */
  sample(trainer: Evaluator<B>): Promise<Metrics | null>;
  /** On the whole set; null also where `signal` ended it. */
  all(trainer: Evaluator<B>, signal?: AbortSignal): Promise<Metrics | null>;
}
