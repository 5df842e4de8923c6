import { type DType, isFloat } from "../../core/dtype.ts";
import { type DeviceProfile, defineOp, opError, type TensorMeta } from "../../core/op.ts";
import { sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { byName, type FusedLinearAttrs, type FusedQkvAttrs, inputNames } from "./inputs.ts";
import { variants } from "./plan.ts";
import { linearReference, qkvReference } from "./reference.ts";
import { linearSamples, qkvSamples } from "./samples.ts";

/** A norm over the last axis, applied while a product reads its operand. */
export interface Norm {
  kind: "rms" | "layer";
  /** [K]. */
  weight: Tensor;
  /** [K], of a layer norm. */
  bias?: Tensor;
  eps: number;
}

type Metas = Record<string, TensorMeta>;

/** The rules of both ops on x, weights, norm and bias; returns the numbers of columns. */
function checkShared(
  given: Metas,
  attrs: FusedLinearAttrs | FusedQkvAttrs,
  fail: (why: string) => Error,
): number[] {
  const { x, normWeight, normBias, bias } = given;
  const weights = [given.weight0, given.weight1, given.weight2].filter((w) => w !== undefined);
  const width = x?.shape[1];
  if (x?.shape.length !== 2 || !isFloat(x.dtype) || !width) throw fail("expected f32 or f16 x [M, K]");
  const columns = weights.map(({ shape, dtype }) => {
    const [n, k] = attrs.inOut ? [shape[1], shape[0]] : [shape[0], shape[1]];
    if (shape.length !== 2 || k !== width || dtype !== weights[0].dtype || !isFloat(dtype))
      throw fail(
        `expected float weights ${attrs.inOut ? "[K, N]" : "[N, K]"} of one dtype with K = ${width}`,
      );
    return n!;
  });
  for (const v of [normWeight, normBias])
    if (v && (!sameShape(v.shape, [width]) || !isFloat(v.dtype)))
      throw fail(`expected the norm's vectors to be float [${width}]`);
  if (normBias && normBias.dtype !== normWeight!.dtype)
    throw fail("expected the norm's vectors to be of one dtype");
  if (bias && (columns.length > 1 || !sameShape(bias.shape, [columns[0]]) || !isFloat(bias.dtype)))
    throw fail("expected one weight and a float bias with a value for each of its columns");
  return columns;
}

function failure(op: string, inputs: readonly TensorMeta[], attrs: FusedLinearAttrs | FusedQkvAttrs) {
  const names = inputNames(attrs);
  const fail = (why: string) => opError(op, inputs, `${why}; the inputs are ${names.join(", ")}`);
  if (inputs.length !== names.length) throw fail(`expected ${names.length} tensors`);
  return fail;
}

export const fusedLinearOp = defineOp<FusedLinearAttrs>({
  name: "fused_linear",
  doc:
    "y = activation(norm(x) W^T + bias) + residual for rows x [M, K] or those of them that are chosen, W [N, K]: a layer norm " +
    "or RMS norm, GELU, or SwiGLU of two weights, in one dispatch. The bits of a row depend on its values and (N, K) alone.",
  infer(inputs, attrs) {
    const fail = failure("fused_linear", inputs, attrs);
    const given = byName(inputs, attrs);
    const columns = checkShared(given, attrs, fail);
    const { x, residual, chosen } = given;
    if (columns.some((n) => n !== columns[0])) throw fail("expected gate and up of one shape");
    if (chosen && (chosen.dtype !== "i32" || chosen.shape.length !== 1))
      throw fail("expected i32 chosen [M]");
    const shape = [(chosen ?? x)!.shape[0], columns[0]];
    if (residual && (!sameShape(residual.shape, shape) || !isFloat(residual.dtype)))
      throw fail("expected a residual of the result's shape");
    return [{ shape, dtype: attrs.outDtype ?? x!.dtype }];
  },
  reference: linearReference,
  notDifferentiable: "it serves; training uses norm, linear and activation",
  variants: variants<FusedLinearAttrs>(),
  samples: linearSamples,
});

export const fusedQkvOp = defineOp<FusedQkvAttrs>({
  name: "fused_qkv",
  doc:
    "Query [M, H, D] of the tokens x [M, K], their keys and values written to the paged caches [num_blocks, block_size, KV, D] " +
    "at the slots of places[1] (negative: nowhere): a norm, the projections, and a rotation of queries and keys by the positions of " +
    "places[0], in one dispatch.",
  infer(inputs, attrs) {
    const fail = failure("fused_qkv", inputs, attrs);
    const given = byName(inputs, attrs);
    const columns = checkShared(given, attrs, fail);
    const { x, keyCache, valueCache, frequencies, places } = given as Required<Metas>;
    const [, , kv, dim] = keyCache!.shape;
    const cached =
      keyCache!.shape.length === 4 && sameShape(keyCache!.shape, valueCache!.shape) && dim! % 2 === 0;
    if (!cached || keyCache!.dtype !== valueCache!.dtype || !isFloat(keyCache!.dtype))
      throw fail("expected two float caches [num_blocks, block_size, KV, D], D even");
    const heads = [attrs.heads, kv!, kv!].map((n) => n * dim!);
    const wanted = attrs.separate ? heads : [heads[0] + 2 * heads[1]];
    if (!sameShape(columns, wanted))
      throw fail(`expected weights for ${attrs.heads} and twice ${kv} heads of ${dim}`);
    const [lists, room] = places!.shape;
    if (places!.dtype !== "i32" || places!.shape.length !== 2 || lists !== 2 || room! < x!.shape[0])
      throw fail("expected i32 places [2, at least M]: positions and slots");
    if (attrs.rotary && (frequencies!.dtype !== "f32" || !sameShape(frequencies!.shape, [dim! / 2])))
      throw fail("expected f32 inverse frequencies [D / 2]");
    return [{ shape: [x!.shape[0], attrs.heads, dim!], dtype: x!.dtype }];
  },
  reference: qkvReference,
  notDifferentiable: "it serves; training uses norm, linear and rope",
  mutates: (count) => [count - 2, count - 1],
  variants: variants<FusedQkvAttrs>(),
  samples: qkvSamples,
});

/**
 * Whether a model of this width is served by the fused products, a question that must not depend on the batch. Small ones
 * are: there dispatches are the time. For larger ones the tiles and matrix units of matmul do at least as much.
 */
export function suitsFusion(
  { class: kind, maxStorageBuffers }: DeviceProfile,
  width: number,
  { inOut = false }: { inOut?: boolean } = {},
): boolean {
  if (maxStorageBuffers < mostBuffers) return false;
  return kind === "cpu" ? width < (inOut ? 256 : 512) : width <= 1024 && !inOut;
}

/** What the query, key and value of a Llama bind. */
const mostBuffers = 10;

const normInputs = (norm?: Norm) => (norm ? [norm.weight, ...(norm.bias ? [norm.bias] : [])] : []);
const normAttrs = (norm?: Norm) => (norm ? { norm: norm.kind, eps: norm.eps } : {});

/** See `fused_linear`. `chosen` i32: the rows of x to take, all when absent. */
export function fusedLinear(
  x: Tensor,
  weights: readonly [Tensor] | readonly [gate: Tensor, up: Tensor],
  options: {
    norm?: Norm;
    activation?: FusedLinearAttrs["activation"];
    bias?: Tensor | null;
    residual?: Tensor;
    chosen?: Tensor;
    inOut?: boolean;
    outDtype?: Extract<DType, "f32">;
  },
): Tensor {
  const { norm, activation, bias, residual, chosen, inOut, outDtype } = options;
  const extra = [bias, residual, chosen].filter((t) => t !== undefined && t !== null);
  return apply(fusedLinearOp, [x, ...weights, ...normInputs(norm), ...extra], {
    ...normAttrs(norm),
    ...(activation && { activation }),
    ...(bias && { bias: true }),
    ...(residual && { residual: true }),
    ...(chosen && { chosen: true }),
    ...(inOut && { inOut }),
    ...(outDtype && outDtype !== x.dtype && { outDtype }),
  })[0];
}

/** See `fused_qkv`. */
export function fusedQkv(
  x: Tensor,
  weights: readonly Tensor[],
  options: {
    heads: number;
    norm: Norm;
    bias?: Tensor | null;
    /** Queries and keys are turned by their positions; f32 [D / 2]. */
    inverseFrequencies?: Tensor;
    /** [2, at least M] i32: positions and, below them, slots. */
    places: Tensor;
    cache: { key: Tensor; value: Tensor };
    inOut?: boolean;
  },
): Tensor {
  const { heads, norm, bias, inverseFrequencies, places, cache, inOut } = options;
  const given = [bias, inverseFrequencies].filter((t) => t !== undefined && t !== null);
  const extra = [...given, places, cache.key, cache.value];
  return apply(fusedQkvOp, [x, ...weights, ...normInputs(norm), ...extra], {
    heads,
    ...normAttrs(norm),
    ...(weights.length === 3 && { separate: true }),
    ...(bias && { bias: true }),
    ...(inverseFrequencies && { rotary: true }),
    ...(inOut && { inOut }),
  })[0];
}
