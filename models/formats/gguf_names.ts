import { KilnError } from "../../core/errors.ts";
import type { GPT2Config } from "../gpt2_config.ts";
import { type LlamaConfig, type RopeParameters, ropeInverseFrequencies } from "../llama_config.ts";
import type { Gguf } from "./gguf.ts";
import { ggufValues } from "./gguf_blocks.ts";
import type { GgufValue } from "./gguf_header.ts";

/**
 * How llama.cpp calls and stores what kiln has as a Hugging Face model (gguf-py's tensor_mapping.py and convert_hf_to_gguf.py).
 */

/** The metadata of a file with checks: a missing or wrong key is a one-line error that names it. */
class GgufKeys {
  readonly tensors: Gguf["tensors"];
  readonly #metadata: Gguf["metadata"];
  readonly #file: string;

  constructor({ metadata, tensors }: Gguf, file: string) {
    this.tensors = tensors;
    this.#metadata = metadata;
    this.#file = file;
  }

  get(key: string): unknown {
    return this.#metadata.get(key)?.value;
  }

  text(key: string): string {
    const value = this.get(key);
    if (typeof value === "string") return value;
    throw this.refuse(`metadata ${key} is ${value === undefined ? "missing" : "not text"}`);
  }

  /** A number; a list of equal ones, one a layer, counts as that number. */
  number(key: string, fallback?: number): number {
    const [value, ...others] = [this.get(key) ?? fallback].flat();
    if (typeof value === "number" && others.every((other) => other === value)) {
      return this.#metadata.get(key)?.type === "f32" ? shortest(value) : value;
    }
    throw this.refuse(
      `metadata ${key} is ${value === undefined ? "missing" : others.length ? "another one in each layer" : "not a number"}`,
    );
  }

  /** Refuses sizes that are not those of a tensor: a model of them would be made before anything is found not to fit. */
  expect(tensor: string, shape: readonly number[]): void {
    const found = this.tensors.get(tensor)?.shape;
    if (found?.length === shape.length && found.every((extent, axis) => extent === shape[axis])) return;
    const given = found === undefined ? "missing" : `[${found}]`;
    throw this.refuse(`tensor ${tensor} is ${given}, the metadata says [${shape}]`);
  }

  refuse(problem: string): KilnError {
    return new KilnError(`${this.#file}: ${problem}; use the model's folder in Hugging Face layout`, {
      code: "gguf_unsupported",
    });
  }
}

/** 0.00001 for the f32 nearest to it: the shortest decimal that rounds to the same f32. */
function shortest(value: number): number {
  const decimals = [6, 7, 8, 9].map((digits) => Number(value.toPrecision(digits)));
  return decimals.find((decimal) => Math.fround(decimal) === value) ?? value;
}

type Metadata = [name: string, value: GgufValue][];
const u32 = (value: number): GgufValue => ({ type: "u32", value });
const f32 = (value: number): GgufValue => ({ type: "f32", value });

/** An architecture of llama.cpp whose model in kiln has configs `C`. */
interface GgufArchitecture<C> {
  /** Names without `.weight` and `.bias`, `N` for the layer: Hugging Face's and llama.cpp's. */
  names: Record<string, string>;
  /** Hugging Face's names of matrices that are stored the other way round. */
  transposed: readonly string[];
  /** Those whose rows are rotated: the number of heads that they have. */
  rotated(config: C): Record<string, number>;
  /** Tensors that are kept in f32 whatever the type of the others, besides those of one axis. */
  precise: readonly string[];
  /** The content of a config.json. */
  config(keys: GgufKeys): Record<string, unknown>;
  /** The metadata of a config, whose keys begin with the name of the architecture. */
  metadata(config: C): Metadata;
  /** Tensors that hold no weights, by their names: values in f32. */
  extra(config: C): Record<string, Float32Array>;
}

const row = <C>(architecture: GgufArchitecture<C>) => architecture;

/** The special tokens' ids as config.json has them. */
function specialTokens(keys: GgufKeys): Record<string, unknown> {
  const id = (role: string) => keys.get(`tokenizer.ggml.${role}_token_id`) ?? null;
  const [eos, endOfTurn] = [id("eos"), id("eot")];
  return {
    bos_token_id: id("bos"),
    eos_token_id: endOfTurn === null || endOfTurn === eos ? eos : [eos, endOfTurn],
    pad_token_id: id("padding"),
    tie_word_embeddings: !keys.tensors.has("output.weight"),
  };
}

/** Llama 3's stretching of long wavelengths: a tensor of divisors, one a frequency. */
const divisors = "rope_freqs.weight";

function llama3Divisors(config: Pick<LlamaConfig, "head_dim" | "rope_parameters">): Float32Array {
  const { rope_theta } = config.rope_parameters;
  const plain = ropeInverseFrequencies({ ...config, rope_parameters: { rope_type: "default", rope_theta } });
  return Float32Array.from(ropeInverseFrequencies(config), (frequency, i) => plain[i] / frequency);
}

function readRope(keys: GgufKeys, head_dim: number): RopeParameters {
  const rope_theta = keys.number("llama.rope.freq_base", 10000);
  const type = keys.get("llama.rope.scaling.type") ?? "none";
  if (type !== "none" && type !== "linear") {
    throw keys.refuse(`llama.rope.scaling.type is ${JSON.stringify(type)}; kiln computes none and linear`);
  }
  const tensor = keys.tensors.get(divisors);
  if (tensor) return readLlama3Rope(keys, head_dim, { rope_theta, given: ggufValues(tensor) });
  // Files of 2023 have the factor alone, under another name.
  const factor = keys.number(`llama.rope.${type === "linear" ? "scaling.factor" : "scale_linear"}`, 1);
  return factor === 1 ? { rope_type: "default", rope_theta } : { rope_type: "linear", rope_theta, factor };
}

/** The divisors of the published Llama 3 models have these settings; others cannot be told from them. */
function readLlama3Rope(
  keys: GgufKeys,
  head_dim: number,
  { rope_theta, given }: { rope_theta: number; given: Float32Array },
): RopeParameters {
  const factor = given.reduce((a, b) => Math.max(a, b), 1);
  if (factor === 1) return { rope_type: "default", rope_theta };
  const rope_parameters: RopeParameters = {
    rope_type: "llama3",
    rope_theta,
    factor,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: keys.number("llama.rope.scaling.original_context_length", 8192),
  };
  const ours = llama3Divisors({ head_dim, rope_parameters });
  const fits =
    given.length === ours.length && ours.every((value, i) => Math.abs(value - given[i]) <= 1e-4 * value);
  if (!fits) throw keys.refuse(`${divisors} holds divisors that are not those of Llama 3`);
  return rope_parameters;
}

const llama = row<LlamaConfig>({
  names: {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    lm_head: "output",
    "model.layers.N.input_layernorm": "blk.N.attn_norm",
    "model.layers.N.self_attn.q_proj": "blk.N.attn_q",
    "model.layers.N.self_attn.k_proj": "blk.N.attn_k",
    "model.layers.N.self_attn.v_proj": "blk.N.attn_v",
    "model.layers.N.self_attn.o_proj": "blk.N.attn_output",
    "model.layers.N.post_attention_layernorm": "blk.N.ffn_norm",
    "model.layers.N.mlp.gate_proj": "blk.N.ffn_gate",
    "model.layers.N.mlp.up_proj": "blk.N.ffn_up",
    "model.layers.N.mlp.down_proj": "blk.N.ffn_down",
  },
  transposed: [],
  rotated: ({ num_attention_heads, num_key_value_heads }) => ({
    "model.layers.N.self_attn.q_proj": num_attention_heads,
    "model.layers.N.self_attn.k_proj": num_key_value_heads,
  }),
  precise: [],
  config(keys) {
    const hidden_size = keys.number("llama.embedding_length");
    const heads = keys.number("llama.attention.head_count");
    const head_dim = keys.number("llama.attention.key_length", hidden_size / heads);
    const num_hidden_layers = keys.number("llama.block_count");
    const intermediate_size = keys.number("llama.feed_forward_length");
    keys.expect("blk.0.attn_q.weight", [heads * head_dim, hidden_size]);
    keys.expect("blk.0.ffn_up.weight", [intermediate_size, hidden_size]);
    keys.expect(`blk.${num_hidden_layers - 1}.attn_norm.weight`, [hidden_size]);
    const turned = keys.number("llama.rope.dimension_count", head_dim);
    if (turned !== head_dim)
      throw keys.refuse(`${turned} of ${head_dim} components of a head are rotated; kiln rotates all`);
    if (keys.get("llama.expert_count"))
      throw keys.refuse("it is a mixture of experts, which kiln does not compute");
    return {
      hidden_size,
      intermediate_size,
      num_hidden_layers,
      num_attention_heads: heads,
      num_key_value_heads: keys.number("llama.attention.head_count_kv", heads),
      head_dim,
      max_position_embeddings: keys.number("llama.context_length"),
      rms_norm_eps: keys.number("llama.attention.layer_norm_rms_epsilon"),
      attention_bias: keys.tensors.has("blk.0.attn_q.bias"),
      mlp_bias: keys.tensors.has("blk.0.ffn_up.bias"),
      rope_parameters: readRope(keys, head_dim),
    };
  },
  metadata: (config) => [
    ["context_length", u32(config.max_position_embeddings)],
    ["embedding_length", u32(config.hidden_size)],
    ["block_count", u32(config.num_hidden_layers)],
    ["feed_forward_length", u32(config.intermediate_size)],
    ["attention.head_count", u32(config.num_attention_heads)],
    ["attention.head_count_kv", u32(config.num_key_value_heads)],
    ["attention.key_length", u32(config.head_dim)],
    ["attention.value_length", u32(config.head_dim)],
    ["attention.layer_norm_rms_epsilon", f32(config.rms_norm_eps)],
    ["rope.dimension_count", u32(config.head_dim)],
    ["rope.freq_base", f32(config.rope_parameters.rope_theta)],
    ...ropeMetadata(config.rope_parameters),
  ],
  extra(config): Record<string, Float32Array> {
    return config.rope_parameters.rope_type === "llama3" ? { [divisors]: llama3Divisors(config) } : {};
  },
});

function ropeMetadata({
  rope_type,
  factor,
  original_max_position_embeddings: original,
}: RopeParameters): Metadata {
  const scaling = (name: string, value: GgufValue): Metadata => [[`rope.scaling.${name}`, value]];
  if (rope_type === "linear")
    return [...scaling("type", { type: "string", value: "linear" }), ...scaling("factor", f32(factor!))];
  return rope_type === "llama3" ? scaling("original_context_length", u32(original!)) : [];
}

const gpt2 = row<GPT2Config>({
  names: {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    lm_head: "output",
    "transformer.h.N.ln_1": "blk.N.attn_norm",
    "transformer.h.N.attn.c_attn": "blk.N.attn_qkv",
    "transformer.h.N.attn.c_proj": "blk.N.attn_output",
    "transformer.h.N.ln_2": "blk.N.ffn_norm",
    "transformer.h.N.mlp.c_fc": "blk.N.ffn_up",
    "transformer.h.N.mlp.c_proj": "blk.N.ffn_down",
  },
  // Conv1D keeps [in, out].
  transposed: ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"].map(
    (name) => `transformer.h.N.${name}`,
  ),
  rotated: () => ({}),
  precise: ["transformer.wpe"],
  config(keys) {
    const n_embd = keys.number("gpt2.embedding_length");
    const n_positions = keys.number("gpt2.context_length");
    const n_layer = keys.number("gpt2.block_count");
    const n_inner = keys.number("gpt2.feed_forward_length");
    keys.expect("position_embd.weight", [n_positions, n_embd]);
    keys.expect("blk.0.ffn_up.weight", [n_inner, n_embd]);
    keys.expect(`blk.${n_layer - 1}.attn_norm.weight`, [n_embd]);
    const n_head = keys.number("gpt2.attention.head_count");
    const layer_norm_epsilon = keys.number("gpt2.attention.layer_norm_epsilon");
    return { n_positions, n_embd, n_layer, n_head, n_inner, layer_norm_epsilon };
  },
  metadata: (config) => [
    ["context_length", u32(config.n_positions)],
    ["embedding_length", u32(config.n_embd)],
    ["block_count", u32(config.n_layer)],
    ["feed_forward_length", u32(config.n_inner ?? 4 * config.n_embd)],
    ["attention.head_count", u32(config.n_head)],
    ["attention.layer_norm_epsilon", f32(config.layer_norm_epsilon)],
  ],
  extra: () => ({}),
});

/** By `general.architecture`, which is the `model_type` of config.json. */
export const ggufArchitectures: Record<string, GgufArchitecture<never>> = { llama, gpt2 };

/** What the metadata says about the model, as the content of a config.json. Errors: an architecture or a setting that kiln lacks. */
export function ggufConfig(gguf: Gguf, file: string): Record<string, unknown> {
  const keys = new GgufKeys(gguf, file);
  const name = keys.text("general.architecture");
  if (!Object.hasOwn(ggufArchitectures, name)) {
    const known = Object.keys(ggufArchitectures).join(", ");
    throw keys.refuse(`its architecture is ${JSON.stringify(name)}, and kiln reads ${known} from GGUF files`);
  }
  const vocab_size = keys.tensors.get("token_embd.weight")?.shape[0];
  if (vocab_size === undefined)
    throw keys.refuse("it has no token_embd.weight, so it is a vocabulary or an adapter, not a model");
  return { model_type: name, vocab_size, ...ggufArchitectures[name].config(keys), ...specialTokens(keys) };
}
