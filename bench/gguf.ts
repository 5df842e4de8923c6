import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { LlamaForCausalLM } from "../models/llama.ts";

export const ggufPath = path.join(tmpdir(), "kiln-bench", "model.gguf");

/** Bytes of a GGUF file (version 3), little-endian. */
class Writer {
  readonly #parts: Uint8Array[] = [];
  length = 0;

  bytes(data: Uint8Array): this {
    this.#parts.push(data);
    this.length += data.byteLength;
    return this;
  }

  u32(value: number): this {
    return this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): this {
    return this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  f32(value: number): this {
    return this.bytes(new Uint8Array(Float32Array.of(value).buffer));
  }

  text(value: string): this {
    const data = new TextEncoder().encode(value);
    return this.u64(data.byteLength).bytes(data);
  }

  align(): this {
    return this.bytes(new Uint8Array((alignment - (this.length % alignment)) % alignment));
  }

  join(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.#parts));
  }
}

const alignment = 32;
const types = { u32: 4, f32: 6, bool: 7, text: 8, array: 9, i32: 5 };

type Value = string | number | { f32: number } | { list: readonly string[] | Float32Array | Int32Array };

function writeValue(out: Writer, value: Value): void {
  if (typeof value === "string") out.u32(types.text).text(value);
  else if (typeof value === "number") out.u32(types.u32).u32(value);
  else if ("f32" in value) out.u32(types.f32).f32(value.f32);
  else {
    const { list } = value;
    const type =
      list instanceof Float32Array ? types.f32 : list instanceof Int32Array ? types.i32 : types.text;
    out.u32(types.array).u32(type).u64(list.length);
    if (list instanceof Float32Array || list instanceof Int32Array) out.bytes(new Uint8Array(list.buffer));
    else for (const text of list) out.text(text);
  }
}

/** llama.cpp turns neighbouring components of a head, Hugging Face halves: rows of query and key change places. */
function interleaveHalves(rows: Float32Array, width: number, dim: number): Float32Array {
  const out = new Float32Array(rows.length);
  for (let row = 0; row < rows.length / width; row++) {
    const [head, place] = [Math.floor(row / dim), row % dim];
    const from = head * dim + (place % 2) * (dim / 2) + Math.floor(place / 2);
    out.set(rows.subarray(from * width, (from + 1) * width), row * width);
  }
  return out;
}

const names: Record<string, string> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
  "input_layernorm.weight": "attn_norm.weight",
  "self_attn.q_proj.weight": "attn_q.weight",
  "self_attn.k_proj.weight": "attn_k.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "self_attn.o_proj.weight": "attn_output.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "mlp.gate_proj.weight": "ffn_gate.weight",
  "mlp.up_proj.weight": "ffn_up.weight",
  "mlp.down_proj.weight": "ffn_down.weight",
};

function ggufName(name: string): string {
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  return layer ? `blk.${layer}.${names[rest!]}` : names[name];
}

/**
 * Writes a Llama's weights in f32 to `ggufPath`, for llama.cpp. The tokenizer in it only gives every id a name: the file
 * is fed and read by ids.
 */
export async function writeGguf(model: LlamaForCausalLM): Promise<void> {
  const { config } = model;
  const metadata: Record<string, Value> = {
    "general.architecture": "llama",
    "general.name": "kiln bench",
    "general.file_type": 0,
    "llama.context_length": config.max_position_embeddings,
    "llama.embedding_length": config.hidden_size,
    "llama.block_count": config.num_hidden_layers,
    "llama.feed_forward_length": config.intermediate_size,
    "llama.attention.head_count": config.num_attention_heads,
    "llama.attention.head_count_kv": config.num_key_value_heads,
    "llama.attention.layer_norm_rms_epsilon": { f32: config.rms_norm_eps },
    "llama.rope.dimension_count": config.head_dim,
    "llama.rope.freq_base": { f32: config.rope_parameters.rope_theta },
    "llama.vocab_size": config.vocab_size,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": { list: tokenNames(config.vocab_size) },
    "tokenizer.ggml.scores": { list: new Float32Array(config.vocab_size) },
    // 2 unknown, 3 control, 6 byte, 1 normal.
    "tokenizer.ggml.token_type": {
      list: Int32Array.from({ length: config.vocab_size }, (_, i) =>
        i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1,
      ),
    },
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
  };
  const head = new Writer();
  const body = new Writer();
  const parameters = [...model.namedParameters()];
  head.u32(0x46554747).u32(3).u64(parameters.length).u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) writeValue(head.text(key), value);
  for (const [name, parameter] of parameters) {
    let values = (await parameter.data()) as Float32Array;
    if (/[qk]_proj/.test(name)) values = interleaveHalves(values, config.hidden_size, config.head_dim);
    head.text(ggufName(name)).u32(parameter.rank);
    for (const extent of [...parameter.shape].reverse()) head.u64(extent);
    head.u32(0).u64(body.align().length);
    body.bytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  const data = head.align().bytes(body.align().join()).join();
  mkdirSync(path.dirname(ggufPath), { recursive: true });
  writeFileSync(ggufPath, data);
}

function tokenNames(count: number): string[] {
  const hex = (n: number) => n.toString(16).toUpperCase().padStart(2, "0");
  return Array.from({ length: count }, (_, i) =>
    i < 3 ? ["<unk>", "<s>", "</s>"][i] : i < 259 ? `<0x${hex(i - 3)}>` : `t${i}`,
  );
}
