import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";

// A compiled step gives what it would give if it were called without `compile`, in whatever state it was first called.
beforeAll(async () => void (await k.openDevice()));
afterAll(() => setDevice(null));

const values = async (t: Tensor | null | undefined) => Array.from(await t!.data());
const leaf = (list: number[], shape = [list.length]) => persist(tensor(list, shape)).requireGrad();

/** A step and how often it was traced. */
function counted<R>(body: (...args: Tensor[]) => R) {
  const traces = { count: 0 };
  const step = compile((...args: Tensor[]) => {
    traces.count++;
    return body(...args);
  });
  return { step, traces };
}

describe("a compiled step is traced anew", () => {
  it("when derivatives are recorded that were not before", async () => {
    const w = leaf([3]);
    const { step, traces } = counted((x) => {
      const y = k.sum(k.mul(k.square(w), x!));
      return y.requiresGrad ? grads(y, [w])[0] : y;
    });
    const x = tensor([2]);
    for (let i = 0; i < 2; i++) {
      expect(await values(noGrad(() => step(x)))).toEqual([18]);
      expect(await values(step(x))).toEqual([12]);
    }
    expect(traces.count).toBe(2);
  });

  it("when an argument needs a gradient", async () => {
    const { step, traces } = counted((x) => {
      const y = k.sum(k.square(x!));
      return x!.requiresGrad ? grads(y, [x!])[0] : y;
    });
    for (let i = 0; i < 2; i++) {
      expect(await values(step(tensor([3])))).toEqual([9]);
      expect(await values(step(tensor([3]).requireGrad()))).toEqual([6]);
    }
    expect(traces.count).toBe(2);
  });

  it.each<[string, (w: Tensor) => Tensor]>([
    ["itself", (w) => w],
    ["through views", (w) => k.reshape(k.transpose(w), [-1])],
  ])("when a captured tensor is frozen and thawed, read %s", async (_, look) => {
    const [v, w] = [leaf([1, 1], [2, 1]), persist(tensor([3, 4], [2, 1]))];
    const { step, traces } = counted(() => {
      const y = k.sum(k.mul(k.square(look(w)), look(v)));
      return grads(y, w.requiresGrad ? [v, w] : [v]);
    });
    expect(step()).toHaveLength(1);
    w.requireGrad();
    expect(await values(step()[1])).toEqual([6, 8]);
    step();
    expect(traces.count).toBe(2);
    w.requiresGrad = false;
    expect(step()).toHaveLength(1);
    expect(traces.count).toBe(3);
  });

  it("when a captured tensor was freed and another put in its place", async () => {
    const holder = { w: persist(tensor([3])) };
    const { step, traces } = counted((x) => k.mul(holder.w, x!));
    expect(await values(step(tensor([2])))).toEqual([6]);
    dispose(holder.w);
    expect(() => step(tensor([2]))).toThrow(/freed/);
    holder.w = persist(tensor([5]));
    expect(await values(step(tensor([2])))).toEqual([10]);
    expect(traces.count).toBe(3);
  });
});

it("a step is not traced again while nothing changed, and its arguments' layout does not matter", async () => {
  const w = leaf([1, 2, 3, 4], [2, 2]);
  const { step, traces } = counted((x) => k.matmul(w.detach(), x!));
  const x = tensor([1, 2, 3, 4], [2, 2]);
  const plain = await values(scope(() => step(x)));
  expect(plain).toEqual([7, 10, 15, 22]);
  expect(await values(step(k.transpose(k.contiguous(k.transpose(x)))))).toEqual(plain);
  w.write([0, 1, 1, 0]);
  expect(await values(step(x))).toEqual([3, 4, 1, 2]);
  expect(traces.count).toBe(1);
});

it("an argument that is no tensor is refused", () => {
  const step = compile((x: Tensor) => k.mul(x, 2));
  expect(() => step(2 as unknown as Tensor)).toThrow(/argument 0 of the step is not a tensor/);
});
