import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkpoint, grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";

let gpu: Device;
let reference: Device;
beforeAll(async () => {
  reference = k.openReference();
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const wave = (n: number, shape: number[]) =>
  tensor(
    Array.from({ length: n }, (_, i) => Math.sin(i * 1.3)),
    shape,
  );

/** Four layers with dropout; with `recompute`, each keeps its input alone. */
function model(recompute: boolean) {
  const weights = Array.from({ length: 4 }, () => wave(64, [8, 8]).requireGrad());
  const key = tensor([1, 2, 3, 4], [4], "u32");
  const loss = (x: Tensor) => {
    let hidden = x;
    for (const [i, w] of weights.entries()) {
      const layer = (t: Tensor) => t.matmul(w).tanh().gelu().dropout(0.3, key, i).sin().add(t);
      hidden = recompute ? checkpoint(layer, hidden) : layer(hidden);
    }
    return hidden.square().mean();
  };
  return { weights, loss };
}

describe("checkpoint", () => {
  for (const where of ["the reference", "this adapter"]) {
    const open = () => setDevice(where === "this adapter" ? gpu : reference);

    it(`gives the same bits and holds less memory, on ${where}`, async () => {
      open();
      const x = wave(512, [64, 8]).requireGrad();
      const run = (recompute: boolean) => {
        const { weights, loss } = model(recompute);
        return scope(() => {
          const before = x.device.bytesInUse;
          const value = loss(x);
          const held = x.device.bytesInUse - before;
          return { held, slopes: grads(value, [x, ...weights]), value };
        });
      };
      const [kept, again] = [run(false), run(true)];
      expect(again.held).toBeLessThan(kept.held / 2);
      expect(await again.value.item()).toBe(await kept.value.item());
      for (const [i, slope] of kept.slopes.entries())
        expect(Array.from(await again.slopes[i]!.data())).toEqual(Array.from(await slope!.data()));
    });

    it(`works in a compiled step, on ${where}`, async () => {
      open();
      const slopes = async (recompute: boolean) => {
        const { weights, loss } = model(recompute);
        const step = compile((x: Tensor) => grads(loss(x), weights) as Tensor[]);
        return Promise.all(step(wave(512, [64, 8])).map(async (t) => Array.from(await t.data())));
      };
      const [kept, again] = [await slopes(false), await slopes(true)];
      again.flat().forEach((v, i) => {
        expect(v).toBeCloseTo(kept.flat()[i], 6);
      });
    });
  }

  it("passes through what needs no gradient, several outputs, and refuses second derivatives", async () => {
    setDevice(reference);
    const x = tensor([1, 2]).requireGrad();
    expect(checkpoint((t) => t.mul(2), tensor([1])).requiresGrad).toBe(false);
    const [a, b] = checkpoint((t: Tensor) => [t.mul(t), t.mul(3)], x);
    b.sum().backward();
    expect(await x.grad!.toArray()).toEqual([3, 3]);
    const [dx] = grads(a.sum(), [x], { createGraph: true });
    expect(() => dx!.sum().backward()).toThrow("checkpoint has no second derivative");
  });
});
