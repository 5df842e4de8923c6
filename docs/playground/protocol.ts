// What the page and its worker say to each other, and the sizes that both know. Plain data: nothing of kiln is imported here.

/** Sizes of a TinyLLM, with what suits them; `vocabulary` is the most that its tokenizer learns. */
export const sizes = {
  small: { hidden: 64, layers: 2, heads: 4, vocabulary: 512, rows: 8, context: 64, rate: 4e-3, steps: 400 },
  medium: {
    hidden: 128,
    layers: 4,
    heads: 4,
    vocabulary: 1024,
    rows: 16,
    context: 128,
    rate: 2e-3,
    steps: 2000,
  },
  large: {
    hidden: 256,
    layers: 6,
    heads: 8,
    vocabulary: 2048,
    rows: 16,
    context: 256,
    rate: 1e-3,
    steps: 5000,
  },
} as const;
export type SizeName = keyof typeof sizes;

/** What a person chooses for a run. */
export interface Settings {
  size: SizeName;
  /** Tokens of a row. */
  context: number;
  learningRate: number;
  steps: number;
}

export const contexts = [32, 64, 128, 256] as const;

/** How much text there is to learn from. */
export interface CorpusInfo {
  name: string;
  words: number;
  characters: number;
}

/** A run as the page shows it. */
export interface RunState {
  settings: Settings;
  corpus: string;
  parameters: number;
  vocabulary: number;
  step: number;
  /** The mean loss of each step's tokens, in nats. */
  losses: number[];
  training: boolean;
}

/** How one step went. */
export interface StepReport {
  step: number;
  loss: number;
  tokensPerSecond: number;
}

export interface Opened {
  adapter: string;
  software: boolean;
  /** The run that this browser keeps, or null. */
  run: RunState | null;
}

export interface WriteOptions {
  maxTokens: number;
  /** 0 takes the likeliest token each time. */
  temperature: number;
  seed: number;
}

export type Turn = { role: "user" | "assistant"; content: string };

/** The run's model, or the one that was opened from files. */
export type WhichModel = "run" | "opened";

export interface OpenedModel {
  name: string;
  parameters: number;
  context: number;
  /** Whether it has a chat template; without one it goes on with the text. */
  chats: boolean;
}

/** A kernel of a training step. */
export interface KernelRow {
  label: string;
  file: string;
  source: string;
  calls: number;
  /** Mean of the measured steps. */
  ms: number;
  /** Of the time of all kernels, 0 to 1. */
  share: number;
}

/** What the page asks of the worker: the arguments and the answer of each call. */
export interface Calls {
  open(): Opened;
  /** Counts what files hold, or the built-in stories where there are none. */
  read(files: readonly File[]): CorpusInfo;
  start(settings: Settings, files: readonly File[]): RunState;
  /** Trains on from where the run is; answers when it stopped. */
  train(): RunState;
  stop(): void;
  forget(): void;
  /** Says the text as it comes, as `said`; answers with all of it. */
  write(model: WhichModel, turns: readonly Turn[], options: WriteOptions): string;
  hush(): void;
  openFiles(files: readonly File[]): OpenedModel;
  /** A zip of a Hugging Face folder. */
  exportRun(): Uint8Array<ArrayBuffer>;
  kernels(): KernelRow[];
}
export type CallName = keyof Calls;

/** What the worker tells without being asked. */
export interface Events {
  step: StepReport;
  /** A piece of the text that is being written. */
  said: string;
  /** What takes time now, for the line below the buttons; "" when nothing does. */
  busy: string;
  /** The run is kept in the browser up to this step; null: it could not be, and why is in `problem`. */
  kept: { step: number | null; problem?: string };
}

export type Asked = { [N in CallName]: { id: number; name: N; args: Parameters<Calls[N]> } }[CallName];
export type Told =
  | { id: number; value: unknown }
  | { id: number; error: string }
  | { [N in keyof Events]: { event: N; data: Events[N] } }[keyof Events];
