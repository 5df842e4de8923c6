import { beforeAll, describe, expect, it } from "vitest";
import * as kiln from "../index.ts";
import * as nn from "../nn/index.ts";
import * as train from "../train/index.ts";

// What somebody who knows PyTorch tries first, in plain JavaScript: it works, or one line says what to write instead.

const { ones, tensor, zeros } = kiln;
/** What JavaScript, without types, may call or construct by any arguments. */
interface Untyped {
  (...args: unknown[]): unknown;
  new (...args: unknown[]): { forward(x: unknown): unknown };
}
const [k, n, t] = [kiln, nn, train] as unknown as Record<string, Untyped>[];

beforeAll(async () => void (await kiln.openDevice()));

const ids = (...values: number[]) => tensor(values, undefined, "i32");
const leaf = () => ones([2]).requireGrad();

describe("options", () => {
  it.each<[string, () => unknown, string]>([
    [
      "misspelt",
      () => n.crossEntropyLoss(ones([2, 3]), ids(0, 1), { weights: ones([3]) }),
      "there is no option weights; did you mean weight?",
    ],
    [
      "in snake case",
      () => n.crossEntropyLoss(ones([2, 3]), ids(0, 1), { label_smoothing: 0.1 }),
      "did you mean labelSmoothing?",
    ],
    [
      "of another library",
      () => new t.AdamW([leaf()], { learningRate: 1 }),
      "its options are lr, weightDecay, decays, betas, eps",
    ],
    ["of an optimizer", () => new t.Sgd([leaf()], { weight_decay: 0.1 }), "did you mean weightDecay?"],
    [
      "by position",
      () => new n.Linear(2, 3, false),
      "Linear: options are given by name, as { bias: … }, not as false",
    ],
    [
      "a tensor by position",
      () => n.crossEntropyLoss(ones([2, 3]), ids(0, 1), ones([3])),
      "options are given by name",
    ],
    ["of a layer", () => new n.LSTM(2, 3, { batch_first: true }), "did you mean batchFirst?"],
    ["of a convolution", () => new n.Conv2d(1, 2, 3, { strides: 2 }), "did you mean stride?"],
    [
      "of another convolution",
      () => new n.Conv2d(1, 2, 3, { outputPadding: 1 }).forward(ones([1, 1, 5, 5])),
      "conv2d: there is no option outputPadding",
    ],
    ["of pooling", () => k.maxPool2d(ones([1, 1, 4, 4]), 2, { ceil_mode: true }), "did you mean ceilMode?"],
    [
      "of attention",
      () => k.attention(ones([1, 1, 2, 4]), ones([1, 1, 2, 4]), ones([1, 1, 2, 4]), { isCausal: true }),
      "did you mean causal?",
    ],
    ["of norms", () => new n.BatchNorm2d(2, { epsilon: 1 }), "batchNorm: there is no option epsilon"],
    [
      "of derivatives",
      () => k.grads(leaf().sum(), [leaf()], { create_graph: true }),
      "did you mean createGraph?",
    ],
  ])("%s are refused, not ignored", (_name, call, message) => {
    expect(call).toThrow(kiln.KilnError);
    expect(call).toThrow(message);
  });

  it("of every optimizer are known", () => {
    const betas = [0.9, 0.99];
    const all: Record<string, object> = {
      Sgd: { momentum: 0.1, dampening: 0.1, nesterov: false },
      Adam: { betas, eps: 1 },
      AdamW: { betas, eps: 1 },
      Rmsprop: { alpha: 0.9, eps: 1 },
      Adagrad: { lrDecay: 0, eps: 1 },
      Lion: { betas },
      Adafactor: { beta2Decay: -0.5, eps: [1, 1], d: 1 },
      Muon: {
        momentum: 0.1,
        nesterov: true,
        adjustLrFn: "original",
        coefficients: [1, 1, 1],
        iterations: 1,
        eps: 1,
      },
      MuonWithAdamW: { momentum: 0.1, betas, adamwEps: 1 },
    };
    for (const [name, own] of Object.entries(all))
      new t[name]([ones([2, 2]).requireGrad(), ones([2, 2]).requireGrad()], {
        lr: 1,
        weightDecay: 0,
        decays: () => true,
        ...own,
      });
  });
});

describe("JavaScript's operators", () => {
  it("are refused where they would give NaN, false or a text", () => {
    const [a, b] = [ones([2]), ones([2])] as unknown as number[];
    for (const call of [() => a + b, () => a * 2, () => -a, () => a < 0.5, () => 1 / a, () => `loss ` + a])
      expect(call).toThrow(
        "JavaScript's operators do not compute with tensors, here Tensor(f32[2] on webgpu): write a.add(b)",
      );
    expect(`${tensor([1, 2])}`).toBe("tensor([1., 2.], f32[2] on webgpu)");
    expect([a].includes(a) && a !== b && a != null).toBe(true);
  });
});

describe("arguments", () => {
  it.each<[string, () => unknown, string]>([
    [
      "losses of other shapes",
      () => nn.mseLoss(ones([2, 1]), ones([2])),
      "mseLoss(f32[2, 1], f32[2]): expected a target of the input's shape",
    ],
    [
      "logits of other shapes",
      () => nn.bceWithLogitsLoss(ones([2, 1]), ones([2])),
      "bceWithLogitsLoss(f32[2, 1], f32[2]): expected a target",
    ],
    [
      "extents one by one",
      () => k.zeros(2, 3),
      "zeros: expected a list of extents, got 2: write [2] or [2, …]",
    ],
    ["an axis twice", () => ones([2, 3]).sum([0, -2]), "sum: dim 0 is given twice in [0,-2]"],
    ["no tensors", () => k.cat([]), "cat: expected one tensor or more, got none"],
    [
      "unlike tensors",
      () => kiln.stack([ones([2]), ones([3])]),
      "stack(f32[2], f32[3]): expected tensors of one shape",
    ],
    ["no seed", () => k.randn([2]), "randn: give a seed after the shape"],
    ["a bigint", () => k.tensor([1n]), "tensor: value 0 is 1n, a bigint, not a number"],
    ["no kernel size", () => new n.Conv2d(1, 2), "Conv2d: kernelSize is undefined; expected a number"],
    ["no output size", () => new n.Linear(3), "a parameter of a module: extents must be whole numbers"],
    [
      "a list of layers",
      () => new n.Sequential([new nn.Linear(1, 1)]),
      "Sequential: layer 0 is an array; give modules or functions",
    ],
    [
      "a name of a layer",
      () => new n.Sequential(new nn.Linear(1, 1), "relu"),
      'Sequential: layer 1 is "relu"',
    ],
    [
      "a model for its parameters",
      () => new t.AdamW(new nn.Linear(1, 1)),
      "optimizer: expected a list of parameters such as model.parameters(), got an object (Linear)",
    ],
    ["what is no leaf", () => new train.Sgd([leaf().mul(2)]), "optimizer: 0 was computed from other tensors"],
    [
      "a rate that is none",
      () => new t.Sgd([leaf()], { lr: "x" }),
      'optimizer: lr is "x"; expected a number of 0 or more',
    ],
    ["a negative rate", () => new train.Sgd([leaf()], { lr: -1 }), "optimizer: lr is -1"],
    [
      "a gradient of another shape",
      () => new train.Sgd([leaf()]).step([ones([3])]),
      "optimizer: gradient 0 is [3], but its parameter is [2]",
    ],
  ])("%s get a line that says what to write", (_name, call, message) => {
    expect(call).toThrow(kiln.KilnError);
    expect(call).toThrow(message);
  });

  it("of a device that is not open any more name both", () => {
    const a = ones([2]);
    const gpu = kiln.device();
    kiln.openReference();
    const b = ones([2]);
    kiln.setDevice(gpu);
    expect(() => a.add(b)).toThrow(
      "add: Tensor(f32[2] on webgpu) and Tensor(f32[2] on reference) are on different devices; make both on one, or copy",
    );
  });

  it("may be true and false", async () => {
    const truths = tensor([[true, false]]);
    expect([truths.dtype, await truths.tolist()]).toEqual(["bool", [[1, 0]]]);
    expect(await tensor([true, 2.5] as never).tolist()).toEqual([1, 2.5]);
    expect(await tensor([true, false], undefined, "i32").tolist()).toEqual([1, 0]);
    expect(tensor(true).dtype).toBe("bool");
  });

  it("keep the integers of their arrays", () => {
    const dtypes = [new Int32Array(2), new Uint32Array(2), new Float64Array(2), new Uint8Array(2)];
    expect(dtypes.map((values) => tensor(values).dtype)).toEqual(["i32", "u32", "f32", "f32"]);
    expect(tensor(new Int32Array(2), [1, 2], "f32").dtype).toBe("f32");
  });
});

describe("a module", () => {
  it("finds parameters made of tensors, of views and of lists, and those inside objects", async () => {
    class Scale extends nn.Module {
      scale = new nn.Parameter([1, 2]);
      view = new nn.Parameter(kiln.arange(6, undefined, 1, "f32").slice([2, 4]));
      heads = { main: new nn.Linear(1, 1, { bias: false }), others: [new nn.Linear(1, 1, { bias: false })] };
      mean = new nn.Buffer(zeros([2]));
    }
    const module = kiln.scope(() => new Scale());
    const names = ["scale", "view", "heads.main.weight", "heads.others.0.weight"];
    expect([...module.namedParameters().keys()]).toEqual(names);
    expect([...module.stateDict().keys()]).toEqual([...names, "mean"]);
    module.view.mul(module.scale).sum().backward();
    expect([await module.scale.grad!.tolist(), await module.view.grad!.tolist()]).toEqual([
      [2, 3],
      [1, 2],
    ]);
    expect(() => new nn.Parameter(ids(1))).toThrow("has no derivatives; use f32 or f16");
  });

  it("is decayed by AdamW as in PyTorch, where nothing else is asked for", async () => {
    const w = tensor([1]).requireGrad();
    new train.AdamW([w], { lr: 0.5 }).step([tensor([0])]);
    expect(await w.item()).toBeCloseTo(1 - 0.5 * 0.01, 6);
    const plain = tensor([1]).requireGrad();
    new train.Adam([plain], { lr: 0.5 }).step([tensor([0])]);
    expect(await plain.item()).toBe(1);
  });
});
