import { z } from "zod";
import { configError } from "./formats/validation.ts";

/** What the config.json files of all architectures have in common. */

/** The largest size of one axis: no model is near it, and a slip of the keyboard is refused before memory is asked for. */
export const mostOfAnAxis = 2 ** 24;
/** A positive size of an axis. */
export const count = z.int().min(1).max(mostOfAnAxis);
/** A number of blocks. */
export const layers = z.int().min(1).max(1000);
export const token = z.int().min(0);
/** Share of values that training drops out. */
export const rate = z.number().min(0).lt(1);

/** Special tokens, with the defaults of an architecture in transformers. Checkpoints of 2023 write pad_token_id -1 for none. */
export const specialTokens = (bos: number | null, eos: number | null) => ({
  bos_token_id: token.nullable().default(bos),
  eos_token_id: z
    .union([token, z.array(token).min(1)])
    .nullable()
    .default(eos),
  pad_token_id: z
    .int()
    .nullish()
    .transform((id) => (id == null || id < 0 ? null : id)),
});

export interface SpecialTokens {
  bos_token_id: number | null;
  eos_token_id: number | number[] | null;
  pad_token_id: number | null;
}

/** Makes a `refuse`, which makes a one-line error about the config in `source`. */
export const refusal = (source: string) => (problem: string) => configError(`${source}: ${problem}`);

/** Refuses a config whose weights are quantized. */
export function refuseQuantized(quantization: unknown, source: string): void {
  if (quantization === undefined || quantization === null) return;
  throw refusal(source)(
    "the weights are quantized (quantization_config); save the model in float32, float16 or bfloat16 first",
  );
}

/**
 * Keys of a written config.json that are not part of any config; `dtype` is read by transformers 5, `torch_dtype` by older
 * versions.
 */
export const hfCommon = { dtype: "float32", torch_dtype: "float32", use_cache: true };
