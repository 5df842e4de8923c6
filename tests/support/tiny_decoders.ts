import { scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import {
  type CausalLM,
  GPT2LMHeadModel,
  LlamaForCausalLM,
  parseGpt2Config,
  tinyllmConfig,
} from "../../models/index.ts";

// Two decoders of two layers with weights large enough for every one to matter, and what they say of one row of tokens.

export const tinyLlama = (more: { tie_word_embeddings?: boolean; vocab_size?: number } = {}) =>
  new LlamaForCausalLM(
    tinyllmConfig({
      vocab_size: 96,
      hidden_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      initializer_range: 0.2,
      ...more,
    }),
  ).init(1);

export const tinyGpt2 = (more: { vocab_size?: number } = {}) =>
  new GPT2LMHeadModel(
    parseGpt2Config({
      model_type: "gpt2",
      vocab_size: 97,
      n_embd: 48,
      n_layer: 2,
      n_head: 4,
      n_positions: 64,
      initializer_range: 0.2,
      bos_token_id: null,
      eos_token_id: null,
      ...more,
    }),
  ).init(2);

export const tokens = Array.from({ length: 24 }, (_, i) => (i * 37) % 96);
export const positions = tokens.map((_, i) => i);
export const row = (values: readonly number[]) => tensor(values, [1, values.length], "i32");
export const logitsOf = (model: CausalLM) =>
  model.logits(model.hidden(row(tokens), { positions: row(positions) }));
export const read = async (model: CausalLM) =>
  Array.from(await scope(() => noGrad(() => logitsOf(model))).data());
export const valuesOf = async (tensors: Iterable<Tensor>) =>
  Promise.all(Array.from(tensors, async (t) => Array.from(await t.data())));
export const largest = (values: readonly number[]) =>
  values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
export const difference = (a: readonly number[], b: readonly number[]) => largest(a.map((v, i) => v - b[i]));
