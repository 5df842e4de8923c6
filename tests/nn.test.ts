import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { numel, type Shape } from "../core/shape.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";
import * as nn from "../nn/index.ts";
import { worstRatio } from "./support/ops_harness.ts";

/**
 * Modules and losses with PyTorch 2.13's numbers (CPU, f32), from torch_nn.json. For a module:
 *
 *     module = getattr(torch.nn, name)(*args)                       # an object in args: keywords
 *     module.load_state_dict({n: make(t.shape, i, 0.3) for i, (n, t) in enumerate(module.state_dict().items())})
 *     y = module(make(input, 5)); loss = sum((y_i * make(y_i.shape, 9 + i)).sum() for all outputs)
 *     grads = torch.autograd.grad(loss, [x, *module.parameters()]); evaluated = module.eval()(x)
 *
 * (|.| + 0.5 for running_var, 0 for num_batches_tracked; batch norms run twice); for a run, six steps of SGD at 0.1; for a
 * loss, getattr(F, loss)(*inputs, ids, **options) and the gradients of its sum by the inputs.
 */
interface ModuleCase {
  module: string;
  args: unknown[];
  state: Record<string, Shape>;
  input: Shape;
  outputs: number[][];
  grads: number[][];
  buffers: Record<string, number[]>;
  evaluated: number[];
}
interface LossCase {
  call: string;
  inputs: [Shape, number[]][];
  ids: [Shape, number[]] | null;
  weight: number[] | null;
  options: object;
  values: number[];
  grads: number[][];
}
const fixture: {
  modules: ModuleCase[];
  losses: LossCase[];
  runs: Record<"cnn" | "lstm", { state: Record<string, Shape>; losses: number[] }>;
} = JSON.parse(readFileSync(new URL("fixtures/torch_nn.json", import.meta.url), "utf8"));

let gpu: WebGpuDevice;
let reference: Device;
beforeAll(async () => {
  reference = k.openReference();
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));
const devices = (): Device[] => [gpu, reference];

const make = (shape: Shape, seed: number, scale = 1) =>
  tensor(
    Array.from({ length: numel(shape) }, (_, i) => ((((i * 37 + seed * 11) % 29) - 14) / 7) * scale),
    shape,
  );

/** The state of the fixture's script, by name. */
function stateOf(shapes: Record<string, Shape>): Map<string, Tensor> {
  const value = (name: string, shape: Shape, i: number) => {
    if (name.endsWith("num_batches_tracked")) return tensor(0);
    const t = make(shape, i, 0.3);
    return name.endsWith("running_var") ? k.add(k.abs(t), 0.5) : t;
  };
  return new Map(Object.entries(shapes).map(([name, shape], i) => [name, value(name, shape, i)]));
}

async function close(actual: Tensor, expected: readonly number[], what: string, tolerance = 2e-5) {
  const ratio = worstRatio(await actual.data(), expected, tolerance, tolerance);
  expect(ratio, `${what}: error over tolerance`).toBeLessThanOrEqual(1);
}

const flat = (y: unknown): Tensor[] => (Array.isArray(y) ? y.flatMap(flat) : [y as Tensor]);
type AnyModule = nn.Module & { forward(x: Tensor): unknown };

describe.each(
  fixture.modules.map((c) => [`${c.module}(${JSON.stringify(c.args).slice(1, -1)})`, c] as const),
)("%s", (_name, test) => {
  const create = () => {
    const Class = (nn as unknown as Record<string, new (...args: unknown[]) => AnyModule>)[test.module];
    const module = new Class(...test.args);
    expect([...module.stateDict()].map(([name, t]) => [name, t.shape])).toEqual(Object.entries(test.state));
    module.loadStateDict(stateOf(test.state));
    return module;
  };
  const gradientsOf = (module: AnyModule, x: Tensor) => {
    const outputs = flat(module.forward(x));
    const loss = outputs.map((y, i) => k.sum(k.mul(y, make(y.shape, 9 + i)))).reduce((a, b) => k.add(a, b));
    return [...outputs, ...(grads(loss, [x, ...module.parameters()]) as Tensor[])];
  };

  it("has PyTorch's names, values, gradients and statistics, on each device and compiled", async () => {
    for (const on of devices())
      for (const how of ["eager", "compiled"]) {
        const before = setDevice(on);
        const module = create();
        const x = make(test.input, 5).requireGrad();
        const step =
          how === "eager"
            ? (t: Tensor) => gradientsOf(module, t)
            : compile((t: Tensor) => gradientsOf(module, t));
        if (test.module.startsWith("Batch")) step(x);
        const results = step(x);
        for (const [i, expected] of [...test.outputs, ...test.grads].entries())
          await close(results[i], expected, `${how} on ${on.kind}, result ${i}`, 5e-5);
        for (const [name, expected] of Object.entries(test.buffers))
          await close(module.stateDict().get(name)!, expected, `${how} on ${on.kind}, ${name}`);
        module.eval();
        // The same compiled step, which must not replay what it traced for training.
        await close(step(x)[0], test.evaluated, `${how} on ${on.kind}, evaluated`);
        setDevice(before);
      }
  });
});

describe.each(
  fixture.losses.map((c) => [`${c.call} ${c.inputs[0][0]} ${JSON.stringify(c.options)}`, c] as const),
)("%s", (_name, test) => {
  it("gives PyTorch's value and gradients on each device", async () => {
    for (const on of devices()) {
      const before = setDevice(on);
      const inputs = test.inputs.map(([shape, values]) => tensor(values, shape).requireGrad());
      const ids =
        test.ids &&
        tensor(test.ids[1], test.ids[0], test.call.includes("Loss") && isLabel(test) ? "f32" : "i32");
      const options = { ...test.options, ...(test.weight && { weight: tensor(test.weight) }) };
      const call = (nn as unknown as Record<string, (...args: unknown[]) => Tensor>)[test.call];
      const y = call(...inputs, ...(ids ? [ids] : []), options);
      await close(y, test.values, on.kind);
      const found = grads(k.sum(y), inputs);
      for (const [i, expected] of test.grads.entries())
        await close(found[i]!, expected, `${on.kind}, gradient ${i}`);
      setDevice(before);
    }
  });
});

/** Whether ids are the +-1 of a comparison instead of class numbers. */
const isLabel = ({ call }: LossCase) => call === "cosineEmbeddingLoss" || call === "marginRankingLoss";

describe("a few steps of SGD give PyTorch's losses", () => {
  class Net extends nn.Module {
    readonly lstm = new nn.LSTM(3, 8);
    readonly head = new nn.Linear(8, 1);

    forward(x: Tensor): Tensor {
      return this.head.forward(k.select(this.lstm.forward(x)[0], 0, -1));
    }
  }
  const models = {
    cnn: () => {
      const model = new nn.Sequential(
        new nn.Conv2d(1, 4, 3, { padding: 1 }),
        new nn.BatchNorm2d(4),
        k.relu,
        new nn.MaxPool2d(2),
        new nn.Conv2d(4, 6, 3),
        k.relu,
        (x) => k.adaptiveAvgPool2d(x, 1),
        (x) => k.flatten(x, 1),
        new nn.Linear(6, 3),
      );
      const classes = tensor([0, 1, 2, 0, 1, 2], [6], "i32");
      return { model, x: make([6, 1, 8, 8], 5), loss: (y: Tensor) => nn.crossEntropyLoss(y, classes) };
    },
    lstm: () => {
      const target = make([4, 1], 3);
      return { model: new Net(), x: make([7, 4, 3], 5), loss: (y: Tensor) => nn.mseLoss(y, target) };
    },
  };

  it.each(["cnn", "lstm"] as const)("%s", async (name) => {
    const { state, losses } = fixture.runs[name];
    for (const on of devices())
      for (const how of ["eager", "compiled"]) {
        const before = setDevice(on);
        const { model, x, loss } = models[name]();
        model.loadStateDict(stateOf(state));
        const update = (input: Tensor) => {
          const value = loss(model.forward(input));
          const parameters = model.parameters();
          const found = grads(value, parameters) as Tensor[];
          noGrad(() => {
            for (const [i, p] of parameters.entries()) k.addInto(p, k.mul(found[i], -0.1));
          });
          return value;
        };
        const step = how === "eager" ? (input: Tensor) => scope(() => update(input)) : compile(update);
        for (const [i, expected] of losses.entries())
          await close(step(x), [expected], `${how} on ${on.kind}, step ${i}`, 2e-4);
        setDevice(before);
      }
  });
});

describe("Module", () => {
  it("Dropout draws another mask at each call, the same in its gradient, and none in evaluation", async () => {
    for (const on of devices()) {
      const before = setDevice(on);
      const layer = new nn.Dropout(0.25);
      const x = k.add(make([64, 32], 1), 5).requireGrad();
      const pass = (t: Tensor) => {
        const [first, second] = [layer.forward(t), layer.forward(t)];
        return [first, second, ...(grads(k.sum(k.add(first, second)), [t]) as Tensor[])];
      };
      const step = compile(pass);
      const seen: string[] = [];
      const input = await x.data();
      for (const run of [pass, step, step]) {
        const [first, second, gradient] = await Promise.all(
          run(x).map(async (t) => Array.from(await t.data())),
        );
        for (const values of [first, second]) {
          const kept = values.filter((v) => v !== 0).length / values.length;
          // Four standard errors of 2,048 draws.
          expect(Math.abs(kept - 0.75)).toBeLessThan(0.039);
          seen.push(values.map((v) => (v ? 1 : 0)).join(""));
        }
        const expected = first.map((v, i) => (v + second[i]) / input[i]);
        expect(worstRatio(gradient, expected, 1e-5, 1e-5)).toBeLessThanOrEqual(1);
      }
      expect(new Set(seen).size).toBe(seen.length);
      layer.eval();
      expect(Array.from(await step(x)[0].data())).toEqual(Array.from(input));
      const [again] = step(x);
      layer.train();
      expect(Array.from(await step(x)[0].data())).not.toEqual(Array.from(await again.data()));
      setDevice(before);
    }
  });

  it("train and eval reach every module inside, and compiled steps keep a plan for each", async () => {
    class Outer extends nn.Module {
      readonly layers = [new nn.Sequential(new nn.Dropout(0.5)), new nn.GRU(2, 2, { dropout: 0.5 })] as const;
    }
    const model = new Outer();
    for (const mode of [false, true]) {
      expect(model.train(mode)).toBe(model);
      expect(model.layers.map((layer) => layer.training)).toEqual([mode, mode]);
      expect(model.layers[1].dropout.training).toBe(mode);
    }
    const norm = new nn.BatchNorm1d(2);
    let traces = 0;
    const step = compile((x: Tensor) => {
      traces++;
      return norm.forward(x);
    });
    const x = make([4, 2], 1);
    for (const mode of [true, false, true, false]) {
      norm.train(mode);
      step(x);
    }
    expect(traces).toBe(2);
    expect(await norm.numBatchesTracked!.item()).toBe(2);
  });

  it("loads states from lists and says what does not fit, changing nothing then", async () => {
    const model = new nn.Sequential(new nn.Linear(2, 1), k.relu, new nn.Linear(1, 1));
    const good = { "0.weight": [[1, 2]], "0.bias": [3], "2.weight": [[4]], "2.bias": [5] };
    expect(model.loadStateDict(good)).toEqual({ missing: [], unexpected: [] });
    expect(await model.forward(tensor([[1, 1]])).item()).toBe(29);
    const { "2.bias": _, ...short } = good;
    const wrong = { ...short, "0.bias": [1, 2], extra: [1] };
    expect(() => model.loadStateDict({ ...wrong, "0.weight": [[9, 9]] })).toThrow(
      "loadStateDict: 0.bias is [2] instead of [1]; missing: 2.bias; not part of this module: extra",
    );
    expect(await model.forward(tensor([[1, 1]])).item()).toBe(29);
    const rest = { "2.bias": [6], extra: [1] };
    expect(model.loadStateDict(rest, { strict: false })).toEqual({
      missing: ["0.weight", "0.bias", "2.weight"],
      unexpected: ["extra"],
    });
    expect(await model.forward(tensor([[1, 1]])).item()).toBe(30);
    const other = new nn.Sequential(new nn.Linear(2, 1), k.relu, new nn.Linear(1, 1));
    other.loadStateDict(model.stateDict());
    expect(await other.forward(tensor([[1, 1]])).item()).toBe(30);
  });

  it("new layers start as PyTorch's, uniform by fan-in or hidden size", async () => {
    const bounds: [nn.Module, number][] = [
      [new nn.Conv2d(4, 32, 3, { groups: 2 }), 1 / Math.sqrt(18)],
      [new nn.ConvTranspose2d(8, 32, 3), 1 / Math.sqrt(288)],
      [new nn.LSTM(5, 16), 0.25],
    ];
    for (const [module, bound] of bounds)
      for (const parameter of module.parameters()) {
        const values = Array.from(await parameter.data(), Math.abs);
        expect(Math.max(...values)).toBeLessThanOrEqual(bound);
        expect(Math.max(...values)).toBeGreaterThan(0.8 * bound);
      }
  });

  it("says what is wrong", () => {
    const errors: [() => unknown, string][] = [
      [
        () => new nn.Conv2d(4, 6, 3, { groups: 4 }),
        "a convolution of 4 and 6 channels has no 4 equal groups",
      ],
      [() => new nn.GroupNorm(3, 4), "GroupNorm: 4 channels do not make 3 equal groups"],
      [() => new nn.BatchNorm2d(3).forward(make([2, 3], 0)), "expected a tensor of rank 4"],
      [() => new nn.BatchNorm1d(3).forward(make([1, 3], 0)), "training needs two or more, or call eval()"],
      [() => new nn.Dropout(2), "Dropout: p is 2; expected a number from 0 to 1"],
      [
        () => new nn.GRU(3, 4).forward(make([5, 2, 3], 0), make([1, 1, 4], 0)),
        "GRU: the initial state is [1, 1, 4]; expected [1, 2, 4]",
      ],
      [
        () => nn.crossEntropyLoss(make([2, 3, 4], 0), tensor([0, 1], [2], "i32")),
        "expected float input [N, C, d...] with i32 or u32 targets [N, d...]",
      ],
      [() => nn.mseLoss(make([2], 0), make([2], 0), { reduction: "avg" as never }), 'reduction is "avg"'],
    ];
    for (const [body, message] of errors) expect(body).toThrow(message);
  });
});

it("an initial state is read, and the last one continues a sequence", async () => {
  for (const on of devices()) {
    const before = setDevice(on);
    const lstm = new nn.LSTM(2, 3, { numLayers: 2 });
    const x = make([6, 2, 2], 1);
    const [whole, [hidden, cell]] = lstm.forward(x);
    const [, state] = lstm.forward(k.narrow(x, 0, 0, 4));
    const [rest, [lastHidden, lastCell]] = lstm.forward(k.narrow(x, 0, 4, 2), state);
    await close(rest, Array.from(await k.narrow(whole, 0, 4, 2).data()), on.kind);
    await close(lastHidden, Array.from(await hidden.data()), on.kind);
    await close(lastCell, Array.from(await cell.data()), on.kind);
    setDevice(before);
  }
});
