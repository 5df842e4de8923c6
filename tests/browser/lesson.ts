import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import type { Batch } from "../../train/data/index.ts";
import { AdamW } from "../../train/optimizers/index.ts";
import { Trainer } from "../../train/trainer.ts";

const vocabulary = 61;
const sequenceLength = 24;
const rows = 4;

/** What a training step leaves: mean token loss in nats, and the norm of the gradient before clipping. */
export interface Progress {
  loss: number;
  gradNorm: number;
}

/**
 * Trains a Llama of two layers on counting in strides, on the current device: six updates from one batch, then two from
 * two micro-batches. The same everywhere up to rounding.
 */
export async function trainTinyLlama(): Promise<Progress[]> {
  const config = tinyllmConfig({
    vocab_size: vocabulary,
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  });
  const model = new LlamaForCausalLM(config).init(7);
  const optimizer = new AdamW(model.namedParameters(), { betas: [0.9, 0.95], weightDecay: 0.1 });
  const trainer = new Trainer(model, optimizer, { maxGradNorm: 1, sequenceLength });
  const progress: Progress[] = [];
  for (let step = 0; step < 8; step++) {
    const { lossSum, gradNorm, supervised } = trainer.step(
      step < 6 ? [countingBatch(step)] : [countingBatch(step), countingBatch(step + 1)],
      6e-3,
    );
    progress.push({ loss: (await lossSum.item()) / supervised, gradNorm: await gradNorm.item() });
  }
  return progress;
}

/** Rows that count in strides from different starts; two documents share each row. */
function countingBatch(number: number): Batch {
  const column = (cell: (row: number, at: number) => number) =>
    Int32Array.from({ length: rows * sequenceLength }, (_, i) =>
      cell(Math.floor(i / sequenceLength), i % sequenceLength),
    );
  const border = 9;
  const token = (row: number, at: number) => (number * 5 + row * 11 + at * (1 + (row % 3))) % vocabulary;
  const last = (at: number) => at === border - 1 || at === sequenceLength - 1;
  const targets = column((row, at) => (last(at) ? -100 : token(row, at + 1)));
  return {
    tokens: column(token),
    targets,
    positions: column((_, at) => (at < border ? at : at - border)),
    segments: column((_, at) => (at < border ? 0 : 1)),
    bytes: 0,
    supervised: targets.filter((target) => target !== -100).length,
  };
}
