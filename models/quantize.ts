import { KilnError } from "../core/errors.ts";
import { dispose } from "../core/scope.ts";
import { Conv1D, Linear, QuantizedLinear } from "../nn/index.ts";
import { CausalLM } from "./decoder.ts";
import type { Model } from "./model.ts";

/**
 * Puts the matrices of a decoder's layers into NF4 with double quantization (QLoRA); embeddings, norms, biases and a head with a
 * row for each token stay. Adapters are added afterwards. Throws a KilnError where the model has one, and for an encoder.
 */
export async function quantizeModel(model: Model<never>): Promise<void> {
  if (!(model instanceof CausalLM))
    throw new KilnError(
      `a ${model.config.model_type} encoder cannot be put into 4 bits, decoders can: train an adapter of it as it is, with --adapter lora`,
    );
  return replaceLayers(model, async (layer) => {
    const isBody = (layer instanceof Linear || layer instanceof Conv1D) && !layer.weight.perToken;
    if (!isBody) return null;
    const quantized = await QuantizedLinear.from(layer);
    dispose([layer.weight.half, layer.weight]);
    return quantized;
  });
}

/** Floating matrices again, with the values that the quantized ones stand for: an adapter can be merged into these. */
export function dequantizeModel(model: Model<never>): Promise<void> {
  return replaceLayers(model, async (layer) => (layer instanceof QuantizedLinear ? layer.restore() : null));
}

async function replaceLayers(
  model: Model<never>,
  by: (layer: unknown) => Promise<object | null>,
): Promise<void> {
  if (model.adapters.size > 0)
    throw new KilnError(
      "the model has adapters, which belong to its layers; save and remove them, and load them afterwards",
    );
  for (const module of model.namedModules().values())
    for (const [field, layer] of Object.entries(module)) {
      const other = await by(layer);
      if (other) Object.assign(module, { [field]: other });
    }
}
