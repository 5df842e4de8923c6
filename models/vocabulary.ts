import { dispose } from "../core/scope.ts";
import { type Tokenizer, withChatTemplate } from "../tokenizer/index.ts";
import { createModel, type DecoderConfig } from "./architectures.ts";
import type { CausalLM } from "./decoder.ts";

/**
 * The model for a tokenizer that has tokens and stop tokens which its own lacked; the model that is given is freed. A new
 * token's row in the embedding, and in a head of its own, is the mean of all rows, which changes the probabilities of the
 * others least (Hewitt 2021).
 */
export async function withTokenizer(model: CausalLM, tokenizer: Tokenizer): Promise<CausalLM> {
  const rows = Math.max(model.shape.vocab_size, tokenizer.vocabSize);
  const [only, ...others] = tokenizer.eosIds;
  const eos_token_id = others.length === 0 ? (only ?? null) : [...tokenizer.eosIds];
  const config = { ...model.config, vocab_size: rows, eos_token_id } as DecoderConfig;
  const before = model.namedParameters();
  const isHalf = [...before.values()].some(({ dtype }) => dtype === "f16");
  const larger: CausalLM = createModel(config, isHalf ? "f16" : "f32");
  for (const [name, parameter] of larger.namedParameters()) {
    const values = Float32Array.from(await before.get(name)!.data());
    parameter.write(parameter.size === values.length ? values : withMeanRows(values, parameter.shape));
  }
  dispose(model.parameters());
  return larger;
}

/**
 * A model and its tokenizer with a chat template: their own, or ChatML, for whose tokens the model gets rows. `note` says
 * what was added in a line for the person who watches; null: nothing.
 */
export async function withChat({ model, tokenizer: own }: { model: CausalLM; tokenizer: Tokenizer }) {
  const tokenizer = withChatTemplate(own);
  if (tokenizer === own) return { model, tokenizer, note: null };
  const count = tokenizer.vocabSize - own.vocabSize;
  const tokens = count > 0 ? `, whose ${count} special tokens are added to the vocabulary` : "";
  return {
    model: await withTokenizer(model, tokenizer),
    tokenizer,
    note: `the model has no chat template: it gets ChatML${tokens}`,
  };
}

/** A matrix [rows, width] that begins with these values; each further row is the mean of the given ones. */
function withMeanRows(values: Float32Array, [rows, width]: readonly number[]): Float32Array {
  const given = values.length / width;
  const mean = new Float64Array(width);
  values.forEach((value, i) => {
    mean[i % width] += value / given;
  });
  const out = new Float32Array(rows * width);
  out.set(values);
  for (let row = given; row < rows; row++) out.set(mean, row * width);
  return out;
}
