import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Device, setDevice } from "../core/device.ts";
import type { DType } from "../core/dtype.ts";
import { KilnError } from "../core/errors.ts";
import { forEachTensor } from "../core/scope.ts";
import { numel, type Shape } from "../core/shape.ts";
import { full, ones, Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { elementwiseRows } from "../kernels/elementwise/op.ts";
import * as k from "../kernels/index.ts";
import * as losses from "../nn/losses.ts";
import { worstRatio } from "./support/ops_harness.ts";

// Every number that a user may hand to a public function, replaced by numbers that nobody should hand to it: the answer
// is the reference's, or one KilnError at the call.

type Arguments = readonly unknown[];
const of = (shape: Shape, dtype: DType = "f32") =>
  tensor(
    Array.from({ length: numel(shape) }, (_, i) => (dtype === "bool" ? i % 2 : (i % 5) + 1)),
    shape,
    dtype,
  );
const key = () => tensor([1, 2, 3, 4], [4], "u32");

const camel = (name: string) => name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());
/** A call of each elementwise op with numbers for all operands but one, on floats and on integers. */
const pointwise = Object.fromEntries(
  [...elementwiseRows().values()].flatMap(({ name, args, masks = [], defaults, result }) => {
    const call = (dtype: DType, at: number) => (): Arguments =>
      args.map((arg, i) =>
        masks.includes(arg) ? of([5], "bool") : i === at ? of([5], dtype) : (defaults[arg] ?? 2),
      );
    const first = masks.includes(args[0]) ? 1 : 0;
    const whole = [
      [`${camel(name)} i32`, call("i32", first)],
      [`${camel(name)} u32`, call("u32", args.length === 2 ? 1 : first)],
    ];
    return [
      ...(result === "integer" ? [] : [[camel(name), call("f32", first)]]),
      ...(args.length > 1 || result === "integer" ? whole : []),
    ];
  }),
) as Record<string, () => Arguments>;
const reductions = (...names: string[]) =>
  Object.fromEntries(
    names.flatMap((name) => [
      [name, () => [of([2, 3, 4]), 1]],
      [`${name} list`, () => [of([2, 3, 4]), [0, -1], true]],
    ]),
  );

/** Calls by the name of the function, perhaps with a remark behind it. */
const calls: Record<string, () => Arguments> = {
  ...pointwise,
  ...reductions("sum", "mean", "amax", "amin", "prod", "variance", "var", "logsumexp"),
  ...reductions("any", "all", "countNonzero", "std"),
  norm: () => [of([2, 3, 4]), 2, 1],
  cumprod: () => [of([3, 4]), 1],
  median: () => [of([3, 4]), 1],
  argsort: () => [of([3, 4]), 1],
  nonzero: () => [of([3, 4], "bool")],
  maskedSelect: () => [of([3, 4]), of([4], "bool")],
  unique: () => [of([7])],
  bincount: () => [of([4], "i32"), { minlength: 3 }],
  "bincount weights": () => [of([4], "i32"), { weights: of([4]) }],
  scatter: () => [of([2, 3]), 1, tensor([0, 1], [2, 1], "i32"), 5],
  scatterReduce: () => [of([2, 3]), 1, tensor([0, 1], [2, 1], "i32"), of([2, 1]), "mean"],
  indexAdd: () => [of([2, 3]), 1, tensor([0, 2], [2], "i32"), of([2, 2]), 2],
  indexCopy: () => [of([2, 3]), 1, tensor([0, 2], [2], "i32"), of([2, 2])],
  takeAlongDim: () => [of([2, 3]), tensor([0, 1], [2, 1], "i32"), 1],
  rand: () => [[2, 3], 7],
  randn: () => [[2, 3], 7],
  randint: () => [-2, 3, [4], 7],
  randperm: () => [5, 7],
  arange: () => [1, 7, 2],
  linspace: () => [1, 7, 4],
  eye: () => [2, 3],
  fullLike: () => [of([2, 3]), 4],
  oneHot: () => [tensor([1, 5, 0], [3], "i32"), 3],
  meshgrid: () => [[of([2]), of([3])]],
  diagonal: () => [of([3, 4]), 1, 0, 1],
  diag: () => [of([3]), 1],
  roll: () => [of([3, 4]), [1, -2], [0, 1]],
  "roll flat": () => [of([3, 4]), 3],
  tile: () => [of([2, 3]), [2, 1, 2]],
  repeat: () => [of([2, 3]), [2, 3]],
  repeatInterleave: () => [of([2, 3]), 2, 1],
  chunk: () => [of([5, 2]), 2, 0],
  unbind: () => [of([2, 3]), 1],
  movedim: () => [of([2, 3, 4]), [0, 2], [1, 0]],
  swapaxes: () => [of([2, 3, 4]), 0, 2],
  tensordot: () => [
    of([2, 3, 4]),
    of([4, 3]),
    [
      [1, 2],
      [1, 0],
    ],
  ],
  "tensordot 2": () => [of([2, 3, 4]), of([3, 4, 2]), 2],
  "variance correction": () => [of([3, 4]), 1, 1],
  clamp: () => [of([5]), 2, 4],
  "clamp i32": () => [of([5], "i32"), 2, 4],
  "clamp u32": () => [of([5], "u32"), 2, 4],
  glu: () => [of([2, 4]), 1],
  argmax: () => [of([3, 4]), 1],
  argmin: () => [of([3, 4]), 0, true],
  cumsum: () => [of([3, 4]), 1],
  sort: () => [of([3, 4]), 1],
  topk: () => [of([3, 4]), 2, 1],
  softmax: () => [of([3, 4]), 1],
  logSoftmax: () => [of([3, 4]), 0],
  reshape: () => [of([3, 4]), [2, 6]],
  expand: () => [of([3, 1]), [3, 4]],
  broadcastTo: () => [of([1]), [3]],
  sumTo: () => [of([3, 4]), [3, 1]],
  flatten: () => [of([2, 3, 4]), 0, 1],
  permute: () => [of([2, 3, 4]), [2, 0, 1]],
  transpose: () => [of([2, 3, 4]), 0, 1],
  squeeze: () => [of([2, 1, 4]), 1],
  unsqueeze: () => [of([2, 4]), 1],
  slice: () => [of([4, 5]), [1, 3, 1], 2],
  narrow: () => [of([4, 5]), 0, 1, 2],
  select: () => [of([4, 5]), 1, 2],
  split: () => [of([4, 5]), 2, 0],
  "split sizes": () => [of([4, 5]), [1, 3], 0],
  flip: () => [of([4, 5]), 1],
  "flip list": () => [of([4, 5]), [0, 1]],
  pad: () => [of([2, 3]), [1, 2], 3],
  "pad i32": () => [of([2, 3], "i32"), [1, 2], 3],
  place: () => [of([2]), [7], [1], [2], 3],
  tril: () => [of([3, 4]), 1],
  triu: () => [of([3, 4]), 1],
  cat: () => [[of([2, 3]), of([2, 3])], 1],
  stack: () => [[of([2, 3]), of([2, 3])], 1],
  gather: () => [of([2, 3]), 1, tensor([0, 1], [2, 1], "i32")],
  scatterAdd: () => [of([2, 3]), 1, tensor([0, 1], [2, 1], "i32"), of([2, 1])],
  indexSelect: () => [of([3, 2]), 0, tensor([0, 2], [2], "i32")],
  layerNorm: () => [of([2, 4]), of([4]), of([4]), 1e-5],
  rmsNorm: () => [of([2, 4]), of([4]), 1e-5],
  dropout: () => [of([8]), 0.5, key(), 3],
  randomUniform: () => [[2, 3], key(), 3],
  randomNormal: () => [[5], key(), 3],
  crossEntropy: () => [of([2, 3]), tensor([0, 2], [2], "i32"), { ignoreIndex: -100, labelSmoothing: 0.1 }],
  countSupervised: () => [tensor([0, 2], [2], "i32"), -100],
  linearCrossEntropy: () => [
    of([2, 4]),
    of([3, 4]),
    tensor([0, 2], [2], "i32"),
    { ignoreIndex: -100, labelSmoothing: 0.1, chunkBytes: 4096 },
  ],
  klDivLoss: () => [of([2, 3]), of([2, 3]), 2],
  cosineEmbeddingLoss: () => [of([2, 3]), of([2, 3]), tensor([1, -1]), { margin: 0.2 }],
  huberLoss: () => [of([2, 3]), of([2, 3]), { delta: 0.5 }],
  smoothL1Loss: () => [of([2, 3]), of([2, 3]), { beta: 0.5 }],
  nllLoss: () => [of([2, 3]), tensor([0, 2], [2], "i32"), { ignoreIndex: -100, weight: of([3]) }],
  crossEntropyLoss: () => [
    of([2, 3]),
    tensor([0, 2], [2], "i32"),
    { ignoreIndex: -100, labelSmoothing: 0.1 },
  ],
  "crossEntropyLoss soft": () => [of([2, 3]), of([2, 3]), { labelSmoothing: 0.1 }],
  marginRankingLoss: () => [of([4]), of([4]), tensor([1, -1, 1, -1]), { margin: 0.2 }],
  tripletMarginLoss: () => [of([2, 3]), of([2, 3]), of([2, 3]), { margin: 0.2 }],
  conv1d: () => [of([2, 4, 5]), of([2, 2, 3]), of([2]), { stride: 1, padding: 1, dilation: 1, groups: 2 }],
  conv2d: () => [of([1, 2, 4, 4]), of([2, 2, 3, 2]), null, { stride: [1, 2] }],
  conv3d: () => [of([1, 1, 3, 3, 3]), of([1, 1, 2, 2, 2]), null, { stride: 1 }],
  convTranspose1d: () => [of([1, 2, 3]), of([2, 1, 3]), null, { stride: 2, padding: 1, outputPadding: 1 }],
  convTranspose2d: () => [of([1, 2, 2, 3]), of([2, 1, 2, 2]), null, { dilation: 1, groups: 2 }],
  unfold: () => [of([1, 2, 4, 4]), 2, { stride: 1, padding: 1, dilation: 1 }],
  fold: () => [of([1, 4, 9]), [4, 4], 2, { stride: 1 }],
  windows: () => [of([2, 5]), 1, 2, 1, 1],
  overlapAdd: () => [of([2, 4, 2]), 1, 5, 1, 1],
  maxPool1d: () => [of([1, 2, 7]), 2, { stride: 2, padding: 1, dilation: 1 }],
  maxPool2d: () => [of([1, 2, 4, 4]), [2, 2], { stride: 1 }],
  maxPool2dWithIndices: () => [of([1, 2, 4, 4]), 2],
  avgPool1d: () => [of([1, 2, 7]), 2, { stride: 2, padding: 1, divisorOverride: 2 }],
  avgPool2d: () => [of([1, 2, 4, 4]), [2, 2], { stride: 1 }],
  adaptiveAvgPool1d: () => [of([1, 2, 7]), 3],
  adaptiveAvgPool2d: () => [of([1, 2, 4, 4]), [2, 3]],
  interpolate: () => [of([1, 2, 3]), { scaleFactor: 2, mode: "linear" }],
  "interpolate size": () => [of([1, 2, 3, 3]), { size: [2, 4] }],
  globalNorm: () => [[of([3])], { maxNorm: 1 }],
  matmul: () => [of([2, 3]), of([3, 2]), { scale: 2 }],
  attention: () => [of([1, 1, 3, 4]), of([1, 1, 3, 4]), of([1, 1, 3, 4]), { scale: 0.5 }],
  pagedAttention: () => [
    of([1, 1, 4]),
    of([2, 2, 1, 4]),
    of([2, 2, 1, 4]),
    tensor([0, 1], [1, 2], "i32"),
    tensor([0], [1], "i32"),
    tensor([2], [1], "i32"),
    { scale: 0.5 },
  ],
  "tensor i32": () => [[1, 2, 3], [3], "i32"],
  "tensor u32": () => [[1, 2, 3], [3], "u32"],
  "tensor bool": () => [[1, 0, 3], [3], "bool"],
  tensor: () => [
    [
      [1, 2],
      [3, 4],
    ],
  ],
  full: () => [[2, 3], 4],
  "full i32": () => [[2, 3], 4, "i32"],
  "full u32": () => [[2, 3], 4, "u32"],
  zeros: () => [[2, 3]],
  ones: () => [[2, 3]],
};

/** Functions that take no numbers of a user's, with what they are instead. */
const without: Record<string, readonly string[]> = {
  "tensors alone": [
    "searchsorted",
    ...["zerosLike", "onesLike", "outer", "dot", "mv", "mm", "bmm"],
    ...["mseLoss", "l1Loss", "bceLoss", "bceWithLogitsLoss", "contiguous", "embedding", "greedyTokens"],
    ...["feedTokens", "sampleTokens"],
    ...[
      "softmaxBackward",
      "roundBfloat16",
      "assignInto",
      "addInto",
      "pagedKvWrite",
      "cast",
      "linear",
      "rope",
    ],
  ],
  "in-place updates by numbers that are tensors": [
    ...["adamStep", "sgdStep", "rmspropStep", "lionStep", "muonMomentum", "descend", "countApplied"],
    ...["adafactorStep", "adam8bitStep", "adam8bitShapes", "adam8bitTable"],
    ...["updateLossScale", "hyperValues"],
  ],
  "the decoder's kernels, which get numbers from a checked config": [
    "suitsFusion",
    "fusedLinear",
    "fusedQkv",
    "loraRows",
  ],
  "layers whose numbers are sizes of their matrices": [
    ...["quantizedMatmul", "dequantize", "quantizeNf4", "toWords"],
  ],
  "parts of ops": [
    "activate",
    "batched",
    "padSpatial",
    "perAxis",
    "spatialWindows",
    "isIndex",
    "overRowChunks",
  ],
  "the host's half of sampleTokens, whose numbers the server checks": [
    ...["settingsRow", "drawToken", "keptWeights", "kthLargest"],
  ],
  "an equation and tensors": ["einsum"],
  devices: ["openDevice", "openOnce", "openReference"],
};

const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1.5, -1, -2, -7, 9, 1e10, 1e300];
const functions = { ...k, ...losses, tensor, full, zeros, ones } as unknown as Record<
  string,
  (...args: Arguments) => unknown
>;

/** The value with each number in it, however deep, replaced in turn. */
function* spoiled(value: unknown): Generator<{ what: string; value: unknown }> {
  if (typeof value === "number") {
    for (const number of bad) yield { what: `${number}`, value: number };
  } else if (Array.isArray(value)) {
    for (const [i, item] of value.entries())
      for (const s of spoiled(item)) yield { what: `[${i}] ${s.what}`, value: value.with(i, s.value) };
  } else if (
    value !== null &&
    typeof value === "object" &&
    Object.getPrototypeOf(value) === Object.prototype
  ) {
    for (const [name, item] of Object.entries(value))
      for (const s of spoiled(item))
        yield { what: `${name} ${s.what}`, value: { ...value, [name]: s.value } };
  }
}

/** The arguments with each tensor among them, also in a list, replaced in turn by what is none. */
function* robbed(args: Arguments): Generator<Arguments> {
  for (const [i, arg] of args.entries()) {
    if (Array.isArray(arg)) for (const list of robbed(arg)) yield args.with(i, list);
    else if (arg instanceof Tensor) for (const none of [undefined, null, {}, "x"]) yield args.with(i, none);
  }
}

describe("every public function, given bad numbers", () => {
  let gpu: WebGpuDevice;
  let reference: Device;
  beforeAll(async () => {
    reference = k.openReference();
    gpu = await k.openDevice();
  });
  afterAll(() => setDevice(null));

  /** What a call gives: shapes, dtypes and values of its tensors, or its KilnError; anything else is a failure. */
  async function outcome(on: Device, name: string, spoil: (args: Arguments) => Arguments, label: string) {
    setDevice(on);
    const f = functions[name.split(" ")[0]];
    let result: unknown;
    try {
      result = await f(...spoil(calls[name]()));
    } catch (error) {
      expect(error, `${label} on ${on.kind}`).toBeInstanceOf(KilnError);
      return (error as KilnError).message;
    }
    const tensors: Tensor[] = [];
    forEachTensor(result, (t) => tensors.push(t));
    expect(tensors.length, label).toBeGreaterThan(0);
    return Promise.all(tensors.map(async (t) => ({ meta: `${t.dtype}[${t.shape}]`, data: await t.data() })));
  }

  it("has a call here for each, or a reason why not", () => {
    const listed = [
      ...Object.keys(calls).map((name) => name.split(" ")[0]),
      ...Object.values(without).flat(),
    ];
    const exported = Object.entries(functions).filter(([, f]) => typeof f === "function");
    expect(exported.map(([name]) => name).filter((name) => !listed.includes(name))).toEqual([]);
  });

  it("says so where a tensor is missing", async () => {
    for (const name of Object.keys(calls)) {
      const f = functions[name.split(" ")[0]];
      for (const [i, args] of [...robbed(calls[name]())].entries()) {
        let thrown: unknown = null;
        try {
          await f(...args);
        } catch (error) {
          thrown = error;
        }
        // Tensors behind the first may be optional.
        if (thrown !== null || i === 0) expect(thrown, `${name} ${i}`).toBeInstanceOf(KilnError);
      }
    }
  });

  for (const name of Object.keys(calls)) {
    it(`${name}: the reference's answer, or one KilnError`, async () => {
      const [args, ...cases] = [calls[name](), ...spoiled([...calls[name]()])];
      expect(cases.length + args.length).toBeGreaterThan(0);
      for (const [i, { what }] of [{ what: "as it is" }, ...cases].entries()) {
        const spoil = (fresh: Arguments) =>
          i === 0 ? fresh : ([...spoiled([...fresh])][i - 1].value as Arguments);
        const label = `${name} with ${what}`;
        const right = await outcome(reference, name, spoil, label);
        const got = await outcome(gpu, name, spoil, label);
        if (typeof right === "string" || typeof got === "string") {
          expect(got, label).toBe(right);
          continue;
        }
        expect(
          got.map((t) => t.meta),
          label,
        ).toEqual(right.map((t) => t.meta));
        got.forEach((t, j) => {
          expect(
            worstRatio(t.data, right[j].data, 1e-4, 1e-4),
            `${label}: ${t.data} for ${right[j].data}`,
          ).toBeLessThanOrEqual(1);
        });
      }
    });
  }
});
