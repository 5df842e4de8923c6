/** What both ops share; `inputNames` says which inputs a call has. */
export interface FusedAttrs {
  /** Over the last axis of x, applied while the product reads it. */
  norm?: "rms" | "layer";
  eps?: number;
  /** Weights are [K, N] in memory, as GPT-2 stores them, instead of [N, K]. */
  inOut?: boolean;
  bias?: boolean;
}

export interface FusedLinearAttrs extends FusedAttrs {
  /** `swiglu` takes two weights, gate and up. */
  activation?: "gelu" | "gelu_tanh" | "swiglu";
  residual?: boolean;
  /** The last input says which rows of x to take. */
  chosen?: boolean;
  outDtype?: "f32";
}

export interface FusedQkvAttrs extends FusedAttrs {
  /** Query, key and value have a weight each instead of one together. */
  separate?: boolean;
  /** Queries and keys are turned by their position. */
  rotary?: boolean;
  heads: number;
}

/** Names of the inputs of a call, in order. */
export function inputNames(attrs: FusedLinearAttrs | FusedQkvAttrs): string[] {
  const { norm, bias } = attrs;
  const qkv = "heads" in attrs;
  const weights = qkv ? (attrs.separate ? 3 : 1) : attrs.activation === "swiglu" ? 2 : 1;
  return [
    "x",
    ...Array.from({ length: weights }, (_, i) => `weight${i}`),
    ...(norm ? ["normWeight"] : []),
    ...(norm === "layer" ? ["normBias"] : []),
    ...(bias ? ["bias"] : []),
    ...(qkv && attrs.rotary ? ["frequencies"] : []),
    ...(qkv ? ["places", "keyCache", "valueCache"] : []),
    ...(!qkv && attrs.residual ? ["residual"] : []),
    ...(!qkv && attrs.chosen ? ["chosen"] : []),
  ];
}

/** The inputs of a call by name. */
export function byName<T>(inputs: readonly T[], attrs: FusedLinearAttrs | FusedQkvAttrs): Record<string, T> {
  return Object.fromEntries(inputNames(attrs).map((name, i) => [name, inputs[i]]));
}
