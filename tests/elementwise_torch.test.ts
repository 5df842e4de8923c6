import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { type Device, setDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";
import torch from "./fixtures/elementwise_torch.json" with { type: "json" };

// PyTorch 2.13 (CPU, f32) on values that include NaN, infinities, -0 and arguments far out:
//   t = torch.tensor(x, requires_grad=True); y = f(t); y.sum().backward()   for the unary functions
//   f(torch.tensor(x)[:, None], torch.tensor(y)[None, :])                   for the binary ones, i and j for integers

type Values = readonly (number | string)[];
const read = (values: Values) => values.map(Number);
const ours: Record<string, number | string> = { hardtanh: 1, hardsigmoid: 1 / 6, hardswish: "NaN" };
const functions = k as unknown as Record<string, (...args: Tensor[]) => Tensor>;

let gpu: Device;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

async function expectAll(found: Tensor, expected: Values, name: string, inputs: (i: number) => unknown) {
  Array.from(await found.data()).forEach((value, i) => {
    const right = Number(expected[i]);
    const label = `${name} of ${inputs(i)} is ${right}`;
    if (!Number.isFinite(right)) expect(value, label).toBe(right);
    else
      expect(Math.abs(value - right), `${label}, not ${value}`).toBeLessThanOrEqual(
        4e-6 * Math.abs(right) + 1e-7,
      );
  });
}

for (const where of ["this adapter", "the reference"]) {
  describe(`as in PyTorch, on ${where}`, () => {
    beforeAll(() => {
      if (where === "this adapter") setDevice(gpu);
      else k.openReference();
    });

    for (const [name, values] of Object.entries(torch.unary)) {
      it(name, async () => {
        const x = tensor(read(torch.x)).requireGrad();
        const y = functions[name](x);
        await expectAll(y, values, name, (i) => torch.x[i]);
        // At NaN, which is in no branch, PyTorch's hardtanh and hardsigmoid have derivative 0, ours that of the middle.
        const slopes = (torch.gradients as Record<string, Values>)[name]?.map((slope, i) =>
          torch.x[i] === "NaN" && name.startsWith("hard") ? ours[name] : slope,
        );
        if (!slopes || y.dtype === "bool") return;
        const [dx] = grads(k.sum(y), [x]);
        // Zero everywhere: not even computed.
        if (dx === null) expect(new Set(slopes.filter((v) => v !== "NaN").map(Number))).toEqual(new Set([0]));
        else await expectAll(dx, slopes, `derivative of ${name}`, (i) => torch.x[i]);
      });
    }

    for (const [name, values] of Object.entries(torch.binary)) {
      it(name, async () => {
        const z = functions[name](tensor(read(torch.x)).unsqueeze(1), tensor(read(torch.y)));
        const n = torch.y.length;
        await expectAll(z, values, name, (i) => [torch.x[Math.floor(i / n)], torch.y[i % n]]);
      });
    }

    for (const [name, values] of Object.entries(torch.integers)) {
      it(`${name} of integers`, async () => {
        const i = tensor(torch.i, [torch.i.length, 1], "i32");
        const z = name === "bitwiseNot" ? k.bitwiseNot(i) : functions[name](i, tensor(torch.j, [6], "i32"));
        expect(z.dtype).toBe("i32");
        expect(Array.from(await z.data())).toEqual(read(values));
      });
    }

    it("bits of u32, and refusals of what has none", async () => {
      const u = tensor([0xf0f0f0f0, 1], [2], "u32");
      expect(await u.bitwiseNot().toArray()).toEqual([0x0f0f0f0f, 0xfffffffe]);
      expect(await u.bitwiseRightShift(28).toArray()).toEqual([15, 0]);
      expect(await u.bitwiseLeftShift(32).toArray()).toEqual([0, 0]);
      expect(await u.bitwiseRightShift(40).toArray()).toEqual([0, 0]);
      expect(() => tensor([1.5]).bitwiseAnd(1)).toThrow("bitwise_and: expected i32 or u32, got f32");
      expect(await tensor([7, -7], [2], "i32").remainder(0).toArray()).toEqual([0, 0]);
    });

    it("glu gates one half by the other", async () => {
      const x = tensor([
        [1, 2, 0, 1000],
        [3, 4, -1000, 0],
      ]);
      expect(await k.glu(x).toArray()).toEqual([
        [0.5, 2],
        [0, 2],
      ]);
      expect(() => k.glu(tensor([1, 2, 3]))).toThrow("axis 0 has 3 elements, which are no two halves");
    });
  });
}
