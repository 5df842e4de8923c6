import { z } from "zod";
import { presets } from "../../models/architectures.ts";
import { count, positive, share } from "./numbers.ts";

/** `model`: the model to train. */
export const model = z
  .strictObject({
    preset: z
      .enum(Object.keys(presets) as (keyof typeof presets)[])
      .default("tinyllm")
      .describe("the shape that the keys below change: a small Llama, or GPT-2 small"),
    init_from: z
      .string()
      .optional()
      .describe(
        "start from the weights, shape and tokenizer of this model folder or run; relative to the config file",
      ),
    config: z
      .string()
      .optional()
      .describe("a Llama or GPT-2 config.json to use instead of the preset; relative to the config file"),
    hidden_size: count.optional().describe("width; preset 128 (gpt2 768)"),
    intermediate_size: count
      .optional()
      .describe("width inside the MLP; preset 8/3 of hidden_size, a multiple of 16 (gpt2 4 of it)"),
    num_hidden_layers: count.optional().describe("number of blocks; preset 4 (gpt2 12)"),
    num_attention_heads: count.optional().describe("query heads; preset 4 (gpt2 12)"),
    num_key_value_heads: count.optional().describe("key and value heads; preset as many as query heads"),
    head_dim: count.optional().describe("width of a head; preset hidden_size / num_attention_heads"),
    max_position_embeddings: count.optional().describe("longest context in tokens; preset 512 (gpt2 1024)"),
    rms_norm_eps: positive.optional().describe("preset 1e-5"),
    rope_theta: positive.optional().describe("base of the rotary frequencies; preset 10000"),
    tie_word_embeddings: z
      .boolean()
      .optional()
      .describe("one matrix for input and output embeddings; preset true"),
    bias: z.boolean().optional().describe("gpt2 only: whether products and norms have biases; preset true"),
    dropout: share
      .optional()
      .describe("share of attention weights, block outputs and embeddings that training drops; preset 0"),
    attn_pdrop: share.optional().describe("of attention weights alone; takes memory for all of them"),
    resid_pdrop: share.optional().describe("of what attention and MLP add, alone"),
    embd_pdrop: share.optional().describe("of embeddings alone"),
    initializer_range: positive.optional().describe("standard deviation of the first weights; preset 0.02"),
  })
  .prefault({})
  .describe("the model to train");

export type ModelSettings = z.output<typeof model>;
