import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import {
  adafactorStep,
  adamStep,
  globalNorm,
  hyperValues,
  lionStep,
  openDevice,
  rmspropStep,
  sgdStep,
} from "../kernels/index.ts";
import {
  Adagrad,
  Adam,
  AdamW,
  clipGradNorm,
  Muon,
  type Optimizer,
  Rmsprop,
  Sgd,
} from "../train/optimizers/index.ts";
import adafactorRuns from "./fixtures/adafactor.json" with { type: "json" };
import { generator } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => setDevice(null));

const next = generator("optimizers");
const random = (count: number) => Array.from({ length: count }, () => next() * 2 - 1);
const shapes: Record<string, number[]> = { weight: [6, 9], bias: [9] };
const start = Object.values(shapes).map((shape) => random(shape.reduce((a, b) => a * b, 1)));
const gradients = Array.from({ length: 6 }, () =>
  Object.values(shapes).map((s) => random(s.reduce((a, b) => a * b, 1))),
);

function parameters(only = Object.keys(shapes)): Map<string, Tensor> {
  return new Map(only.map((name) => [name, tensor(start[Object.keys(shapes).indexOf(name)], shapes[name])]));
}

function gradientsOf(step: number, named: ReadonlyMap<string, Tensor>): Tensor[] {
  return [...named.keys()].map((name) =>
    tensor(gradients[step][Object.keys(shapes).indexOf(name)], shapes[name]),
  );
}

const make: Record<string, (named: Map<string, Tensor>) => Optimizer> = {
  adamw: (named) => new AdamW(named, { weightDecay: 0.1, decays: (_name, t) => t.rank >= 2 }),
  adam: (named) => new Adam(named, { weightDecay: 0.1 }),
  sgd: (named) => new Sgd(named, { momentum: 0.9, dampening: 0.1 }),
  rmsprop: (named) => new Rmsprop(named),
  adagrad: (named) => new Adagrad(named, { lrDecay: 0.1 }),
  muon: (named) => new Muon(named),
};
const named = (name: string) => parameters(name === "muon" ? ["weight"] : undefined);
const valuesOf = async (map: ReadonlyMap<string, Tensor>) =>
  Promise.all([...map.values()].map(async (t) => Array.from(await t.data())));

for (const [name, build] of Object.entries(make)) {
  describe(name, () => {
    it("gives the same bits after saving and loading its state half-way", async () => {
      const whole = named(name);
      const straight = build(whole);
      for (let i = 0; i < 6; i++) {
        straight.lr = 0.01 * (i + 1);
        straight.step(gradientsOf(i, whole));
      }
      const half = named(name);
      const first = build(half);
      for (let i = 0; i < 3; i++) {
        first.lr = 0.01 * (i + 1);
        first.step(gradientsOf(i, half));
      }
      const resumed = new Map(
        await Promise.all([...half].map(async ([key, t]) => [key, tensor(await t.data(), t.shape)] as const)),
      );
      const second = build(resumed);
      for (const [key, t] of second.state()) t.write(await first.state().get(key)!.data());
      second.steps = first.steps;
      for (let i = 3; i < 6; i++) {
        second.lr = 0.01 * (i + 1);
        second.step(gradientsOf(i, resumed));
      }
      expect(await valuesOf(resumed)).toEqual(await valuesOf(whole));
    });

    it("runs compiled as it does eagerly, with a learning rate that changes", async () => {
      const eager = named(name);
      const compiled = named(name);
      const [a, b] = [build(eager), build(compiled)];
      const step = compile((...given: Tensor[]) => {
        b.step(given);
        return [] as Tensor[];
      });
      for (let i = 0; i < 4; i++) {
        a.lr = 0.02 / (i + 1);
        a.step(gradientsOf(i, eager));
        b.lr = 0.02 / (i + 1);
        step(...gradientsOf(i, compiled));
      }
      expect(await valuesOf(compiled)).toEqual(await valuesOf(eager));
    });
  });
}

describe.each([
  ["adam", 2, adamStep],
  ["sgd", 1, sgdStep],
  ["rmsprop", 1, rmspropStep],
  ["lion", 1, lionStep],
] as const)("%s on many parameters", (op, states, step) => {
  it.each(["together", "single"])("gives the same bits as on each alone (%s)", async (variant) => {
    if (variant === "together" || gpu.profile.class === "cpu") gpu.forcedVariant.set(op, variant);
    onTestFinished(() => void gpu.forcedVariant.delete(op));
    const sizes = [[3, 7], [1028], [2, 4], [5], [16], [1], [300, 4], [8], [64, 64], [12], [2, 2], [9]];
    const values = sizes.map((shape) => random(shape.reduce((a, b) => a * b, 1)));
    const slots = () =>
      sizes.map((shape, i) => ({
        param: tensor(values[i], shape),
        grad: tensor(values[i].toReversed(), shape),
        memory: zeros([states, ...shape]),
      }));
    const hyper = tensor(hyperValues({ lr: 0.01, eps: 1e-8, weight_decay: 0.1, ...factors }));
    const [together, alone] = [slots(), slots()];
    for (let i = 0; i < 2; i++) {
      const { dispatches } = gpu.recorder;
      step(together, hyper, tensor([0.5]));
      const taken = gpu.recorder.dispatches - dispatches;
      if (variant === "together") expect(taken).toBeLessThan(sizes.length / 2);
      for (const slot of alone) step([slot], hyper, tensor([0.5]));
    }
    const tensors = (list: typeof alone) =>
      new Map(
        list.flatMap(({ param, memory }, i) => [[`p${i}`, param] as const, [`m${i}`, memory] as const]),
      );
    expect(await valuesOf(tensors(together))).toEqual(await valuesOf(tensors(alone)));
    expect(await valuesOf(tensors(together))).not.toEqual(await valuesOf(tensors(slots())));
  });
});

const factors = {
  ...{ beta1: 0.9, one_minus_beta1: 0.1, beta2: 0.98, one_minus_beta2: 0.02, momentum: 0.9 },
  ...{ bias1: 0.1, root_bias2: 0.2 },
};

// torch.optim.Adafactor([p], lr=0.5, weight_decay=0.1, eps=(1e-7, 1e-3), d=1) in float64, a step for each gradient.
describe.each(adafactorRuns)("adafactorStep on $shape", ({ shape, param, grads, expected }) => {
  it("moves as torch.optim.Adafactor, and not at all by a scale of 0", async () => {
    const target = tensor(param, shape);
    const factors = shape.length > 1 ? [shape.with(-1, 1), shape.with(-2, 1)] : [shape];
    const variances = factors.map((each) => zeros(each));
    const settings = { beta2_decay: -0.8, eps: [1e-7, 1e-3], clip: 1 } as const;
    const step = (i: number, gradient: number[], scale: number) => {
      const hyper = tensor(hyperValues({ lr: 0.5, weight_decay: 0.1, step: i + 1 }));
      const slot = { param: target, grad: tensor(gradient, shape), variances };
      adafactorStep(slot, hyper, tensor([scale]), settings);
    };
    for (const [i, gradient] of grads.entries()) {
      step(
        i,
        gradient.map((g) => g * Number.POSITIVE_INFINITY),
        0,
      );
      step(
        i,
        gradient.map((g) => g * 4),
        0.25,
      );
    }
    for (const [i, value] of (await target.data()).entries()) expect(value).toBeCloseTo(expected[i], 5);
  });
});

describe("global norm", () => {
  it("clips as clip_grad_norm_", async () => {
    const given = gradientsOf(0, parameters());
    const length = Math.sqrt(gradients[0].flat().reduce((sum, g) => sum + Math.fround(g) ** 2, 0));
    const { norm, clipped } = clipGradNorm(given, 1);
    expect(await norm.item()).toBeCloseTo(length, 5);
    (await clipped[0].data()).forEach((g, i) => {
      expect(g).toBeCloseTo(gradients[0][0][i] / (length + 1e-6), 6);
    });
  });

  it("gives the same bits with many gradients to a dispatch", async () => {
    onTestFinished(() => void gpu.forcedVariant.delete("global_norm"));
    const shapes = [
      [3, 7],
      [70, 300],
      [1028],
      [5],
      [16],
      [9000],
      [2, 4],
      [1],
      [300, 4],
      [64, 64],
      [11],
      [4],
      [8],
      [12],
    ];
    const given = shapes.map((shape) => tensor(random(shape.reduce((a, b) => a * b, 1)), shape));
    const results: number[] = [];
    const taken: number[] = [];
    for (const variant of ["workgroup", "together"]) {
      gpu.forcedVariant.set("global_norm", variant);
      const { dispatches } = gpu.recorder;
      const { norm } = globalNorm(given);
      taken.push(gpu.recorder.dispatches - dispatches);
      results.push(await norm.item());
    }
    expect(results[1]).toBe(results[0]);
    expect(taken[1]).toBeLessThan(taken[0] / 2);
  });

  it("skips a step whose gradients are not finite", async () => {
    const given = parameters();
    const optimizer = new AdamW(given);
    const before = await valuesOf(given);
    const broken = gradientsOf(0, given);
    broken[0].write([Number.POSITIVE_INFINITY, ...gradients[0][0].slice(1)]);
    const { norm, scale } = globalNorm(broken, { maxNorm: 1 });
    optimizer.lr = 0.1;
    optimizer.step(broken, scale);
    expect(await norm.item()).toBe(Number.POSITIVE_INFINITY);
    expect(await valuesOf(given)).toEqual(before);
  });
});

describe("mistakes", () => {
  it("names the parameter that Muon cannot take", () => {
    expect(() => new Muon(parameters())).toThrow(/bias has rank 1/);
  });
  it("counts gradients", () => {
    const optimizer = new AdamW(parameters());
    expect(() => optimizer.step([])).toThrow(/0 gradients for 2 parameters/);
  });
});
