import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { backward, grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { add, matmul, mul, openDevice, sub, sum } from "../kernels/index.ts";
import {
  AdamW,
  createOptimizer,
  type OptimizerSettings,
  optimizerSchema,
  optimizers,
} from "../train/index.ts";

beforeAll(async () => void (await openDevice()));
afterAll(() => setDevice(null));

const names = Object.keys(optimizers);
const settingsOf = (name: string) => optimizerSchema.parse({ name }) as OptimizerSettings;
const valuesOf = (tensors: readonly Tensor[]) =>
  Promise.all(tensors.map(async (t) => Array.from(await t.data())));

/** y = x w + b is learned from four points. */
function problem() {
  const w = tensor([0.3, -0.2, 0.1, 0.4], [2, 2]).requireGrad();
  const b = tensor([0.1, -0.1], [1, 2]).requireGrad();
  const x = tensor([1, 2, 3, 4, -1, 0, 2, -2], [4, 2]);
  const y = tensor([1, 0, 2, -1, 0, 1, 0, 0], [4, 2]);
  const loss = () => {
    const error = sub(add(matmul(x, w), b), y);
    return sum(mul(error, error));
  };
  return { parameters: [w, b], loss };
}

describe.each(names)("%s", (name) => {
  it("learns from backward(), step() and zeroGrad(), with the same bits in a compiled step", async () => {
    const eager = problem();
    const optimizer = createOptimizer(eager.parameters, settingsOf(name));
    const compiled = problem();
    const other = createOptimizer(compiled.parameters, settingsOf(name));
    const update = compile(() => {
      const loss = compiled.loss();
      backward(loss);
      other.step();
      other.zeroGrad();
      return loss;
    });
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) {
      optimizer.lr = other.lr = 0.02 / (1 + step / 4);
      const loss = eager.loss();
      backward(loss);
      optimizer.step();
      optimizer.zeroGrad();
      losses.push(await loss.item());
      expect(await update().item()).toBe(losses.at(-1));
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]);
    expect([optimizer.steps, other.steps]).toEqual([12, 12]);
    expect(await valuesOf(compiled.parameters)).toEqual(await valuesOf(eager.parameters));
  });
});

describe("an optimizer", () => {
  it("takes gradients as an argument, null for a parameter that the loss does not depend on", async () => {
    const { parameters, loss } = problem();
    const before = await valuesOf(parameters);
    const idle = tensor([1, 2]).requireGrad();
    const optimizer = new AdamW([...parameters, idle], { lr: 0.1 });
    optimizer.step(grads(loss(), [...parameters, idle]));
    expect(await valuesOf(parameters)).not.toEqual(before);
    expect(await valuesOf([idle])).toEqual([[1, 2]]);
  });

  it("says what is missing where there are no gradients", () => {
    const optimizer = new AdamW(problem().parameters);
    expect(() => optimizer.step()).toThrow(/no parameter has a gradient; call loss\.backward\(\)/);
  });
});
