import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import { openDevice } from "../../kernels/index.ts";
import { loadPretrainConfig, pretrain } from "../../train/recipes/pretrain.ts";
import { readMetrics } from "../../train/report/metrics_log.ts";
import type { RunOptions } from "../../train/run.ts";
import { parseOverrides } from "../../train/settings/load.ts";

/** Runs of a second or two inside the test's process, in a folder of the test file's own. */
export function toyRuns() {
  const root = mkdtempSync(join(tmpdir(), "kiln-run-"));
  beforeAll(async () => void (await openDevice()));
  afterAll(() => rmSync(root, { recursive: true }));
  const place = (name: string) => join(root, name);
  const toy = [
    "data.corpus.stories=40",
    "data.validation_fraction=0.4",
    "tokenizer.vocab_size=300",
    "model.hidden_size=32",
    "model.num_hidden_layers=1",
    "model.num_attention_heads=2",
    "train.sequence_length=32",
    "train.batch_size=2",
    "train.warmup_steps=1",
    "train.steps=1",
    "sample.max_tokens=1",
  ];

  /** Runs with exactly these settings. */
  async function pretrainWith(
    settings: string[],
    options: Partial<Pick<RunOptions<unknown>, "signal" | "say">> = {},
  ) {
    const lines: string[] = [];
    const config = await loadPretrainConfig(null, parseOverrides(settings));
    const say = (line: string) => lines.push(line);
    const result = await pretrain({ config, makeSampler: () => async () => "", say, ...options });
    const records = readMetrics(join(config.out_dir, "log.jsonl"));
    const weights = readFileSync(join(config.out_dir, "model/model.safetensors")).toString("base64");
    const { validation_loss = null, validation_tokens = null } = result.metrics ?? {};
    const measured = { validationLoss: validation_loss, validationTokens: validation_tokens };
    return { ...result, ...measured, text: lines.join("\n"), records, weights };
  }

  return {
    place,
    toy,
    pretrainWith,
    train: (name: string, ...settings: string[]) =>
      pretrainWith([...toy, `out_dir=${place(name)}`, ...settings]),
    /** Goes on with a run: all that is not named is as the run has it. */
    resume: (name: string, ...settings: string[]) =>
      pretrainWith([`out_dir=${place(name)}`, "resume=true", ...settings]),
  };
}
