import { dispose } from "../core/device.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import type { CausalLM } from "../models/causal_lm.ts";
import { type LlamaConfig, tinyllmConfig } from "../models/config.ts";
import { GPT2LMHeadModel } from "../models/gpt2.ts";
import { parseGpt2Config } from "../models/gpt2_config.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";
import type { Prepared, Row } from "./rows.ts";

const config = tinyllmConfig({ vocab_size: 2048 });

/** Weights that take part in matrix products; the embedding counts once, as the head. */
function matrixWeights(c: LlamaConfig): number {
  const { hidden_size: d, intermediate_size: i, num_hidden_layers: layers } = c;
  const heads = c.num_attention_heads + c.num_key_value_heads;
  return layers * (2 * d * heads * c.head_dim + 3 * d * i) + d * c.vocab_size;
}

/** Two products of queries with keys and values; `pairs` of a query and a key that it may see. */
function attentionFlops(c: LlamaConfig, pairs: number): number {
  return 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * pairs;
}

/** One update of TinyLLM (vocabulary 2048) on 8 rows of 128 tokens: forward, backward, clipping and AdamW, compiled. */
export function trainRow(): Row {
  const [rows, length] = [8, 128];
  const tokens = rows * length;
  const weights = matrixWeights(config);
  const forward = 2 * tokens * weights + attentionFlops(config, (rows * length * (length + 1)) / 2);
  return {
    name: "train step TinyLLM 8x128",
    flops: 3 * forward,
    // Weights read twice; gradients and both moments written and read; weights written.
    bytes: 4 * 10 * weights,
    unit: "GFLOP/s",
    tokens,
    prepare: (device) => prepareTraining(device, tinyllm(), rows, length),
  };
}

/**
 * One update of a GPT-2 of TinyLLM's size, without clipping: the very model that the peers train, with the same
 * tokens. Their loss is read back once a sample, as kiln waits once.
 */
export function gptTrainRow(): Row {
  const [vocab_size, n_embd, n_layer, n_head, length, rows] = [2048, 128, 4, 4, 128, 8];
  const tokens = rows * length;
  const weights = 12 * n_layer * n_embd * n_embd + vocab_size * n_embd;
  const visible = (rows * length * (length + 1)) / 2;
  return {
    name: `train step GPT-2 ${rows}x${length}`,
    flops: 3 * (2 * tokens * weights + 4 * n_layer * n_embd * visible),
    bytes: 4 * 10 * weights,
    unit: "GFLOP/s",
    tokens,
    peer: { op: "train", sizes: [vocab_size, n_embd, n_layer, n_head, length, rows] },
    prepare(device) {
      const settings = { model_type: "gpt2", vocab_size, n_embd, n_layer, n_head, n_positions: length };
      const model = new GPT2LMHeadModel(
        parseGpt2Config({ ...settings, bos_token_id: null, eos_token_id: null }),
      );
      return prepareTraining(device, model.init(1), rows, length, 0);
    },
  };
}

/** TinyLLM of this folder's measurements, untrained. */
export function tinyllm(): CausalLM {
  return new LlamaForCausalLM(config).init(1);
}

/** Updates of a model on `rows` rows of `length` made-up tokens; gradients are clipped to `maxGradNorm`, 0 leaves them. */
export async function prepareTraining(
  device: WebGpuDevice,
  model: CausalLM,
  rows: number,
  length: number,
  maxGradNorm = 1,
): Promise<Prepared> {
  const optimizer = new AdamW(model.namedParameters(), {
    betas: [0.9, 0.95],
    eps: 1e-8,
    weightDecay: 0.1,
    decays: (_name, parameter) => parameter.rank >= 2,
  });
  const trainer = new Trainer(model, optimizer, { maxGradNorm, sequenceLength: length });
  const { vocab_size: vocabulary } = model.shape;
  const tokens = rows * length;
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabulary);
  const batch = {
    tokens: ids,
    targets: ids.map((id) => (id * 31 + 7) % vocabulary),
    positions: ids.map((_, i) => i % length),
    segments: new Int32Array(tokens),
    bytes: tokens,
    supervised: tokens,
  };
  await trainer.prepare([batch]);
  return {
    run: async (times) => {
      for (let i = 0; i < times; i++) {
        dispose(trainer.step([batch], 1e-3));
      }
      await device.sync();
    },
    dispose: () => {
      model.computeIn("f32");
      dispose([model.parameters(), optimizer.state()]);
    },
  };
}

/** One new token of each of `batch` sequences of 128 tokens through the paged cache, logits read back. */
export function decodeRow(batch: number): Row {
  const context = 128;
  const weights = matrixWeights(config);
  const cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * context;
  return {
    name: `decode TinyLLM batch ${batch}`,
    flops: 2 * batch * weights + attentionFlops(config, batch * context),
    bytes: 4 * (weights + batch * cached + batch * config.vocab_size),
    unit: "GB/s",
    tokens: batch,
    prepare: () => prepareDecoding(tinyllm(), batch, context),
  };
}

/** One new token of each of `batch` sequences that are `context` tokens long with it; the logits are read back. */
export async function prepareDecoding(model: CausalLM, batch: number, context: number): Promise<Prepared> {
  const blockSize = 16;
  const blocks = Math.ceil(context / blockSize);
  const decoder = new PagedDecoder(model, {
    numBlocks: batch * blocks,
    blockSize,
    maxSequences: batch,
    maxBlocksPerSequence: blocks,
  });
  const tables = Array.from({ length: batch }, (_, s) =>
    Array.from({ length: blocks }, (_, b) => s * blocks + b),
  );
  const items = (start: number, tokens: number) =>
    tables.map((blockTable, s) => ({
      tokens: Array.from({ length: tokens }, (_, i) => (s + i) % model.shape.vocab_size),
      start,
      blockTable,
      rows: [tokens - 1],
    }));
  await decoder.forward(items(0, context));
  return {
    run: async (times) => {
      for (let i = 0; i < times; i++) await decoder.forward(items(context - 1, 1));
    },
    dispose: () => {
      decoder.close();
      dispose(model.parameters());
    },
  };
}
