import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { dispose } from "../core/scope.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { AdamW } from "./optimizers/index.ts";
import { loadPretrainConfig, type PretrainConfig } from "./recipes/pretrain.ts";
import { lossText } from "./report/run_log.ts";
import type { RunResult } from "./run.ts";
import { newestCheckpoint } from "./run_files.ts";
import { lockFile, lockRun } from "./run_lock.ts";
import { leaves } from "./settings/load.ts";
import { Trainer } from "./trainer.ts";

export interface DemoOptions {
  /** Toy length: runs everything once and learns nothing. */
  smoke?: boolean;
  /** Train again although a finished model is there. */
  fresh?: boolean;
  out: string;
  say: (line: string) => void;
  pretrain: (config: PretrainConfig) => Promise<RunResult>;
}

/** Sizes that read like the corpus after a few minutes on two processor cores; `steps` comes from `affordableSteps`. */
const lesson = {
  // Two hundredths are 14,000 tokens: all of them are measured at the end in a second or two.
  data: { corpus: { stories: 4000 }, validation_fraction: 0.02 },
  tokenizer: { vocab_size: 1024 },
  train: { batch_size: 8, sequence_length: 160, learning_rate: 5e-3, warmup_steps: 20 },
  eval: { every: 100, tokens: 5120 },
  sample: { every: 100, max_tokens: 120, temperature: 0.6 },
  checkpoint: { every: 100, keep: 2 },
};
/** If the full size would see too little text in time, a smaller TinyLLM learns more. */
const smallLesson = {
  ...lesson,
  model: { hidden_size: 64, num_hidden_layers: 3 },
  train: { ...lesson.train, sequence_length: 128, learning_rate: 8e-3 },
};
/** Seconds from the start of the process to the last update, without installing before and samples after. */
const demoSeconds = 220;
/** How few and how many updates make sense. */
const fewestSteps = 200;
const mostSteps = 1500;

/** The same path through the program in seconds. */
const toy = {
  data: { corpus: { stories: 120 } },
  tokenizer: { vocab_size: 384 },
  model: { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2 },
  train: { steps: 12, batch_size: 4, sequence_length: 64, learning_rate: 3e-3, warmup_steps: 4 },
  eval: { every: 6, tokens: 512 },
  sample: { every: 0, max_tokens: 24, temperature: 0.7 },
  checkpoint: { every: 6, keep: 2 },
};

/**
 * The demo: trains a TinyLLM on the built-in stories (or goes on with an interrupted run, or takes the finished model)
 * and shows what it wrote before and after. Returns the model's folder.
 */
export async function demo(options: DemoOptions): Promise<{ modelDir: string }> {
  const { out, say } = options;
  const modelDir = join(out, "model");
  const isTrained = existsSync(join(modelDir, "config.json"));
  if (options.fresh || options.smoke) await clear(out);
  else if (isTrained) {
    say(`${modelDir} is trained already; npm start -- --fresh trains it again`);
    return { modelDir };
  }
  // A folder that another process writes is refused at once, not after the measurement.
  lockRun(out)();
  const config = (await newestCheckpoint(out))
    ? await demoSettings({ out_dir: out, resume: true })
    : await chooseLesson(options);
  const result = await options.pretrain(config).catch((error) => {
    if ((error as KilnError).code !== "checkpoint_version") throw error;
    throw new KilnError(
      `${out} holds a run of another version of kiln: npm start -- --fresh trains it again`,
    );
  });
  say(
    sideBySide(result.samples.before[0] ?? "", result.samples.after[0] ?? "", process.stderr.columns ?? 100),
  );
  say(lossText(result, 3));
  say(`loss curve: ${result.lossCurve}   samples: ${join(out, "samples.txt")}   model: ${modelDir}`);
  return { modelDir };
}

/** Empties the run's folder, unless another process writes it. */
async function clear(folder: string): Promise<void> {
  const release = lockRun(folder);
  try {
    for (const name of await readdir(folder)) {
      if (name !== lockFile) await rm(join(folder, name), { recursive: true, force: true });
    }
  } finally {
    release();
  }
}

/** The size and number of updates that fit into the demo's minutes on this adapter. */
async function chooseLesson({ smoke, out, say }: DemoOptions): Promise<PretrainConfig> {
  const settings = (size: object) => demoSettings({ ...size, out_dir: out });
  if (smoke) return settings(toy);
  let config = await settings(lesson);
  let steps = await affordableSteps(config);
  if (steps < fewestSteps) {
    say("this adapter is slow: a smaller TinyLLM learns more in the same minutes");
    config = await settings(smallLesson);
    steps = Math.max(fewestSteps, await affordableSteps(config));
  }
  return { ...config, train: { ...config.train, steps: Math.min(mostSteps, steps) } };
}

function demoSettings(settings: object): Promise<PretrainConfig> {
  return loadPretrainConfig(
    null,
    leaves(settings).map((setting) => ({ ...setting, from: "the demo" })),
  );
}

/** How many updates fit into what is left of `demoSeconds`: a throw-away model of the same size is timed. */
async function affordableSteps(config: PretrainConfig): Promise<number> {
  const { batch_size, sequence_length } = config.train;
  const { vocab_size } = config.tokenizer;
  const { hidden_size = 128, num_hidden_layers = 4 } = config.model;
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size, hidden_size, num_hidden_layers })).init(0);
  const optimizer = new AdamW(model.namedParameters());
  const trainer = new Trainer(model, optimizer, { maxGradNorm: 1, sequenceLength: sequence_length });
  const size = batch_size * sequence_length;
  const column = (value: (i: number) => number) => Int32Array.from({ length: size }, (_, i) => value(i));
  const tokens = column((i) => (i * 7919) % vocab_size);
  const positions = column((i) => i % sequence_length);
  const batch = {
    tokens,
    targets: tokens,
    positions,
    segments: column(() => 0),
    bytes: size,
    supervised: size,
  };
  let seconds = Number.POSITIVE_INFINITY;
  await trainer.prepare([batch]);
  // The first update compiles; of the others the quickest counts, since other work on the machine can only slow them down.
  for (let i = 0; i < 4; i++) {
    const start = performance.now();
    const result = trainer.step([batch], 1e-3);
    await result.lossSum.item();
    if (i > 0) seconds = Math.min(seconds, (performance.now() - start) / 1000);
    dispose([result.lossSum, result.gradNorm]);
  }
  dispose([model.parameters(), optimizer.state()]);
  return Math.floor((demoSeconds - performance.now() / 1000) / seconds);
}

/** Two texts in columns under the headings "before training" and "after training". */
function sideBySide(before: string, after: string, width: number): string {
  const column = Math.max(24, Math.floor((Math.min(width, 140) - 3) / 2));
  const left = wrap(before, column);
  const right = wrap(after, column);
  const line = (a: string, b: string) => `${a.padEnd(column)} | ${b}`;
  const rows = Array.from({ length: Math.max(left.length, right.length) }, (_, i) =>
    line(left[i] ?? "", right[i] ?? ""),
  );
  return [
    "",
    line("before training", "after training"),
    line("-".repeat(column), "-".repeat(column)),
    ...rows,
    "",
  ].join("\n");
}

/** Lines of at most `width` characters; control and unprintable characters become spaces. */
function wrap(text: string, width: number): string[] {
  const words = text
    .replaceAll(/[\p{C}\s]+/gu, " ")
    .trim()
    .split(" ");
  const lines = [""];
  for (const word of words.flatMap((w) => w.match(new RegExp(`.{1,${width}}`, "gu")) ?? [])) {
    const last = lines.at(-1)!;
    if (last && last.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines;
}
