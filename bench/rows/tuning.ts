import { addAdapter, useAdapter } from "../../models/adapters.ts";
import { BertEncoder } from "../../models/bert.ts";
import { parseDistilBertConfig } from "../../models/encoder_config.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { fillRows, TextBatches } from "../../train/text_batches.ts";
import { madeUpTokens } from "../data.ts";
import { llamaCost, prepareTraining, prepareUpdates } from "./models.ts";
import type { Row } from "./row.ts";

/** What people fine-tune: a classifier of texts, and an adapter of a decoder. */

const layers = 6;
const width = 256;
const vocabulary = 4096;

/**
 * One update of a DistilBERT of 6 layers, 256 wide, with a classifier of two labels, on 16 rows of 64 tokens. `texts` are the
 * lengths of the texts in them: packed without a gap they cost what as many whole rows do.
 */
function classifyRow(name: string, texts: readonly number[], peer?: Row["peer"]): Row {
  const [rows, length] = [16, 64];
  const weights = layers * (4 * width * width + 2 * width * 4 * width);
  const tokens = texts.reduce((sum, size) => sum + size, 0);
  const scores = texts.reduce((sum, size) => sum + 4 * layers * width * size * size, 0);
  return {
    name,
    flops: 3 * (2 * weights * tokens + scores),
    bytes: 4 * 10 * (weights + vocabulary * width),
    unit: "GFLOP/s",
    tokens,
    ...(peer && { peer }),
    prepare: (device) => {
      const model = new BertEncoder(
        parseDistilBertConfig({
          ...{ model_type: "distilbert", architectures: ["DistilBertForSequenceClassification"] },
          ...{ vocab_size: vocabulary, dim: width, hidden_dim: 4 * width, n_layers: layers, n_heads: 4 },
          ...{ max_position_embeddings: 512, dropout: 0, attention_dropout: 0, seq_classif_dropout: 0 },
        }),
      ).init(1);
      const { tokens: ids } = madeUpTokens(length, vocabulary);
      const labelled = texts.map((size, i) => ({ ids: [...ids.subarray(0, size)], target: [i % 2] }));
      const filled = fillRows(labelled, length, 0);
      const mostInRow = filled.reduce((most, row) => Math.max(most, row.length), 0);
      const batches = new TextBatches(model, { length, width: 1, mostInRow, weights: null });
      const batch = batches.collate(Array.from({ length: rows }, (_, i) => filled[i] ?? []));
      const options = { maxGradNorm: 0, sequenceLength: length };
      return prepareUpdates(device, model, batch, options, batches.objective);
    },
  };
}

/** One update of a LoRA adapter (rank 8, on the query and value projections) of a Llama of that size, on 8 rows of 128 tokens. */
function loraRow(): Row {
  const [rows, length] = [8, 128];
  const config = tinyllmConfig({
    ...{ vocab_size: vocabulary, hidden_size: width, intermediate_size: 4 * width },
    ...{ num_hidden_layers: layers, num_attention_heads: 4, max_position_embeddings: length },
  });
  const { weights, forward } = llamaCost(config);
  return {
    name: "train step LoRA 8x128",
    // The derivatives of the frozen weights are not needed.
    flops: 2 * rows * length * forward((length + 1) / 2),
    bytes: 4 * 2 * weights,
    unit: "GFLOP/s",
    tokens: rows * length,
    peer: { op: "lora", sizes: [vocabulary, width, layers, 4, rows, length, 8] },
    prepare: (device) => {
      const model = new LlamaForCausalLM(config).init(1);
      addAdapter(model, { r: 8, lora_alpha: 16, target_modules: ["q_proj", "v_proj"] });
      useAdapter(model, "default");
      return prepareTraining(device, model, rows, length, 0);
    },
  };
}

/** Rows of fine-tuning. The two of the classifier have as many tokens: of whole rows, and of texts of many lengths, packed. */
export function tuningRows(): Row[] {
  const peer = { op: "classify", sizes: [vocabulary, width, layers, 4, 16, 64] };
  const ragged = Array.from({ length: 16 }, (_, i) => [33 + i, 31 - i]).flat();
  return [
    classifyRow("train step DistilBERT 16x64", new Array(16).fill(64), peer),
    classifyRow("train step DistilBERT 1024 in 32 texts", ragged),
    loraRow(),
  ];
}
