import { type DType, isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { type Call, defineOp, opError, type RefTensor, type TensorMeta } from "../../core/op.ts";
import { philox4x32, seedWords, toUnit } from "../../core/random.ts";
import { checkShape, checkWhole, numel, type Shape } from "../../core/shape.ts";
import { apply, type Tensor, tensor } from "../../core/tensor.ts";
import { add, cast, mul } from "../elementwise/index.ts";
import { foldGrid } from "../include/grid.ts";
import { sort } from "../reduce/index.ts";

interface RandomAttrs {
  shape: Shape;
  dtype: DType;
  /** Calls that share a key get different numbers if their streams differ. */
  stream: number;
}

interface DropoutAttrs {
  p: number;
  stream: number;
}

/** A key is u32 [4]: two words of seed and two that count steps. It is a tensor so that a replayed step can change it. */
function isKey(t: TensorMeta | undefined): boolean {
  return t?.dtype === "u32" && t.shape.length === 1 && t.shape[0] === 4;
}

/** Calls `body` with each element's number in [0, 1) and the block's four. */
function forEachUnit(
  key: RefTensor,
  stream: number,
  size: number,
  body: (i: number, four: number[]) => void,
): void {
  const [a, b, c, d] = key.data;
  for (let block = 0; block * 4 < size; block++) {
    const four = Array.from(philox4x32([a, b], [block, stream, c, d]), toUnit);
    for (let j = 0; j < 4 && block * 4 + j < size; j++) body(block * 4 + j, four);
  }
}

function inferRandom(name: string, inputs: readonly TensorMeta[], { shape, dtype, stream }: RandomAttrs) {
  checkShape(name, shape);
  checkWhole(name, "the stream", stream, 0, 2 ** 32 - 1);
  if (!isKey(inputs[0]) || !isFloat(dtype))
    throw opError(name, inputs, "expected a key u32 [4] and a float dtype");
  return [{ shape, dtype }];
}

function variants(NORMAL: boolean) {
  const plan = ({ attrs, profile }: Call<RandomAttrs>) => {
    const size = numel(attrs.shape);
    const params = { size, stream: attrs.stream };
    return {
      defines: { NORMAL, V: "f32", VB: "bool", VU: "u32" },
      params,
      grid: foldGrid(Math.ceil(size / 256), profile),
    };
  };
  return [{ name: "plain", file: "random/fill.wgsl", plan }];
}

const sampleKey = { shape: [4], dtype: "u32" as const, values: [7, 4000000000, 12, 0] };

function samples(atol: number) {
  return [
    { name: "odd", inputs: [sampleKey], attrs: { shape: [3, 7], dtype: "f32" as const, stream: 0 }, atol },
    { name: "stream", inputs: [sampleKey], attrs: { shape: [1030], dtype: "f32" as const, stream: 9 }, atol },
  ];
}

const uniformOp = defineOp<RandomAttrs>({
  name: "random_uniform",
  doc: "Uniform numbers in [0, 1), of 24 bits, from a key u32 [4] and a stream number; the same on every device. Philox4x32-10, Salmon et al. 2011.",
  notDifferentiable: "it is random",
  infer: (inputs, attrs) => inferRandom("random_uniform", inputs, attrs),
  reference([key], { stream }, [y]) {
    forEachUnit(key, stream, y.data.length, (i, four) => {
      y.data[i] = four[i % 4];
    });
  },
  variants: variants(false),
  samples: () => samples(1e-7),
});

const normalOp = defineOp<RandomAttrs>({
  name: "random_normal",
  doc: "Standard normal numbers from a key u32 [4] and a stream number, by Box and Muller from random_uniform's words.",
  notDifferentiable: "it is random",
  infer: (inputs, attrs) => inferRandom("random_normal", inputs, attrs),
  reference([key], { stream }, [y]) {
    forEachUnit(key, stream, y.data.length, (i, four) => {
      const [a, b] = i % 4 < 2 ? [four[0], four[1]] : [four[2], four[3]];
      const angle = 2 * Math.PI * b;
      y.data[i] = Math.sqrt(-2 * Math.log(1 - a)) * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
    });
  },
  variants: variants(true),
  samples: () => samples(1e-5),
});

const dropoutOp = defineOp<DropoutAttrs>({
  name: "dropout",
  doc: "y = x / (1 - p) where the uniform number of the element is p or more, else 0; the gradient draws the same mask again. Srivastava et al. 2014.",
  infer(inputs, { p, stream }) {
    const [x, key] = inputs;
    if (!isKey(key) || !isFloat(x.dtype))
      throw opError("dropout", inputs, "expected a float tensor and a key u32 [4]");
    checkWhole("dropout", "the stream", stream, 0, 2 ** 32 - 1);
    if (!(p >= 0 && p <= 1)) throw new KilnError(`dropout: p is ${p}; expected a number from 0 to 1`);
    return [{ shape: x.shape, dtype: x.dtype }];
  },
  reference([x, key], { p, stream }, [y]) {
    forEachUnit(key, stream, x.data.length, (i, four) => {
      y.data[i] = four[i % 4] >= p ? x.data[i] * keepScale(p) : 0;
    });
  },
  gradient: ({ inputs: [, key], attrs }, [dy]) => [dy && dropout(dy, attrs.p, key, attrs.stream), null],
  file: "random/dropout.wgsl",
  plan({ inputs: [x], attrs: { p, stream }, profile }) {
    const size = numel(x.shape);
    return {
      params: { size, stream, p, scale: keepScale(p) },
      grid: foldGrid(Math.ceil(size / 256), profile),
    };
  },
  samples: () => [
    { name: "tenth", inputs: [{ shape: [5, 7] }, sampleKey], attrs: { p: 0.125, stream: 3 } },
    { name: "all", inputs: [{ shape: [9] }, sampleKey], attrs: { p: 1, stream: 0 } },
  ],
  secondOrder: true,
});

function keepScale(p: number): number {
  return p < 1 ? 1 / (1 - p) : 0;
}

/** Uniform numbers in [0, 1); `key` u32 [4] is (seed, seed, step, step), see `seedWords` of core/random.ts. */
export function randomUniform(shape: Shape, key: Tensor, stream = 0, dtype: DType = "f32"): Tensor {
  return apply(uniformOp, [key], { shape, dtype, stream })[0];
}

/** Standard normal numbers; `key` as for randomUniform. */
export function randomNormal(shape: Shape, key: Tensor, stream = 0, dtype: DType = "f32"): Tensor {
  return apply(normalOp, [key], { shape, dtype, stream })[0];
}

/** The seed of a draw: a number, or a key u32 [4] on the device, which a compiled step can take as an argument. */
export type Seed = number | Tensor;

function keyOf(op: string, seed: Seed): Tensor {
  if (seed === undefined)
    throw new KilnError(`${op}: give a seed after the shape; the same seed draws the same numbers`);
  if (typeof seed !== "number") return seed;
  checkWhole(op, "the seed", seed, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  return tensor([...seedWords(seed), 0, 0], [4], "u32");
}

/** Uniform numbers in [0, 1): the same for the same seed, on every device. */
export const rand = (shape: Shape, seed: Seed, dtype: DType = "f32") =>
  randomUniform(shape, keyOf("rand", seed), 0, dtype);

/** Standard normal numbers: the same for the same seed. */
export const randn = (shape: Shape, seed: Seed, dtype: DType = "f32") =>
  randomNormal(shape, keyOf("randn", seed), 0, dtype);

/** Whole numbers (i32) from `low` to `high` - 1, all equally likely; at most 2^24 different ones. */
export function randint(low: number, high: number, shape: Shape, seed: Seed): Tensor {
  checkWhole("randint", "low", low);
  checkWhole("randint", "high", high, low + 1, Math.min(low + 2 ** 24, 2 ** 31 - 1));
  return add(cast(mul(rand(shape, seed), high - low), "i32"), low);
}

/** The whole numbers from 0 to n - 1 (i32) in a random order. */
export function randperm(n: number, seed: Seed): Tensor {
  checkWhole("randperm", "n", n, 0, 2 ** 24);
  return sort(rand([n], seed), 0).indices;
}

/** Dropout with probability `p`; calls that share a key (one a step) must differ in `stream`. x itself at p = 0. */
export function dropout(x: Tensor, p: number, key: Tensor, stream = 0): Tensor {
  if (p !== 0 && key === undefined)
    throw new KilnError(
      "dropout: give a key u32 [4], a new one for each step; the Dropout of kiln/nn draws its own",
    );
  return p === 0 ? x : apply(dropoutOp, [x, key], { p, stream })[0];
}
