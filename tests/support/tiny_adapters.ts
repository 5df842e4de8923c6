import { join } from "node:path";
import {
  type AdapterConfig,
  addAdapter,
  type CausalLM,
  removeAdapter,
  saveAdapter,
  useAdapter,
} from "../../models/index.ts";

/** Adapters of a small Llama that differ in rank, scale and in the layers that they change. */
export const llamaAdapters: Record<string, Partial<AdapterConfig>> = {
  attention: { r: 4, lora_alpha: 12 },
  odd: { r: 3, target_modules: ["o_proj", "down_proj"] },
  stable: { r: 8, use_rslora: true, target_modules: "all-linear" },
  patterns: {
    r: 2,
    target_modules: ["q_proj", "k_proj", "gate_proj"],
    rank_pattern: { "layers\\.0\\.self_attn\\.q_proj": 5 },
    alpha_pattern: { k_proj: 3 },
  },
  head: { r: 6, target_modules: ["lm_head", "up_proj"] },
};

export const gpt2Adapters: Record<string, Partial<AdapterConfig>> = {
  attention: { r: 4, lora_alpha: 12 },
  all: { r: 5, target_modules: ["c_attn", "c_fc", "c_proj"] },
  inner: { r: 2, target_modules: ["c_fc"] },
};

/** Adds an adapter whose parameters are all far from their first values, and makes it the active one. */
export function withAdapter(model: CausalLM, config: Partial<AdapterConfig>, name = "default"): void {
  const adapter = addAdapter(model, config, { name });
  let seed = name.length;
  for (const [key, parameter] of adapter.parameters()) {
    const about = key.endsWith("magnitude_vector") ? 1 : 0;
    parameter.write(Array.from({ length: parameter.size }, () => about + 0.2 * Math.sin(seed++ * 12.9898)));
  }
  useAdapter(model, name);
}

/** Writes an adapter of a model as PEFT does; returns its folder. */
export async function writeAdapter(
  model: CausalLM,
  config: Partial<AdapterConfig>,
  folder: string,
  name: string,
): Promise<string> {
  withAdapter(model, config, name);
  const path = join(folder, name);
  await saveAdapter(path, model, name);
  useAdapter(model, null);
  removeAdapter(model, name);
  return path;
}
