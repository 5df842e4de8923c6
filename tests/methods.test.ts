import { inspect } from "node:util";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { compile } from "../core/compile.ts";
import { type Device, setDevice } from "../core/device.ts";
import { findOp } from "../core/op.ts";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { Tensor, tensor } from "../core/tensor.ts";
import * as table from "../kernels/elementwise/table.ts";
import * as k from "../kernels/index.ts";

const list = async (t: Tensor | null) => Array.from(await t!.data());
const snake = (name: string) => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

let gpu: Device;
let reference: Device;
beforeAll(async () => {
  reference = k.openReference();
  gpu = await k.openDevice();
});
beforeEach(() => {
  setDevice(reference);
});
afterAll(() => setDevice(null));

describe("methods of a tensor", () => {
  it("are the functions of the same names: a row of the table is an op, an export and a method", () => {
    const notMethods = ["copy", "swiglu", "bceWithLogits"];
    for (const name of Object.keys(table)) {
      expect(findOp(snake(name)).name).toBe(snake(name));
      expect(k, name).toHaveProperty(name);
      expect(name in Tensor.prototype, name).toBe(!notMethods.includes(name));
    }
  });

  it("chain as in PyTorch and NumPy", async () => {
    const x = tensor([
      [1, -2, 3],
      [4, 5, -6],
    ]);
    expect(await x.t().matmul(x).toArray()).toEqual([
      [17, 18, -21],
      [18, 29, -36],
      [-21, -36, 45],
    ]);
    expect(await list(x.where(x.gt(0), 0).max(1))).toEqual([3, 5]);
    expect(await x.sub(x.mean(1, true)).square().sum().item()).toBeCloseTo(12.666667 + 74, 5);
    expect(await x.reshape([3, -1]).permute([1, 0]).flatten().toArray()).toEqual([1, 3, 5, -2, 4, -6]);
    expect(await x.view([3, -1]).tolist()).toEqual([
      [1, -2],
      [3, 4],
      [5, -6],
    ]);
    expect(x.unsqueeze(0).squeeze().shape).toEqual([2, 3]);
    expect([x.dim(), x.numel(), x.to("i32").dtype]).toEqual([2, 6, "i32"]);
    expect(await x.sum().toArray()).toBe(5);
  });

  it("report what is wrong with the call, as the functions do", () => {
    const x = tensor([1, 2, 3]);
    expect(() => x.add(tensor([1, 2]))).toThrow("do not broadcast");
    expect(() => x.mul("2" as never)).toThrow('mul: b must be a tensor or a number, not "2"');
  });
});

describe("backward", () => {
  const both = { "the reference": () => reference, "this adapter": () => gpu };
  for (const [where, device] of Object.entries(both)) {
    it(`adds up over losses until grad is set to null, on ${where}`, async () => {
      setDevice(device());
      const w = tensor([1, 2, 3]).requireGrad();
      const v = tensor([5, 5, 5]).requireGrad();
      w.mul(w).sum().backward();
      expect(await list(w.grad)).toEqual([2, 4, 6]);
      expect(v.grad).toBeNull();
      w.mul(v).sum().backward();
      expect(await list(w.grad)).toEqual([7, 9, 11]);
      expect(await list(v.grad)).toEqual([1, 2, 3]);
      w.grad = null;
      w.mul(2).add(w.mul(3)).sum().backward();
      expect(await list(w.grad)).toEqual([5, 5, 5]);
    });
  }

  it("trains: gradient descent finds the slope of a line", async () => {
    const x = tensor([0, 1, 2, 3]);
    const y = x.mul(3).add(1);
    let [slope, start] = [tensor(0).requireGrad(), tensor(0).requireGrad()];
    for (let i = 0; i < 300; i++) {
      x.mul(slope).add(start).sub(y).square().mean().backward();
      const step = (t: Tensor) => noGrad(() => t.sub(t.grad!.mul(0.1))).requireGrad();
      [slope, start] = [step(slope), step(start)];
    }
    expect(await slope.item()).toBeCloseTo(3, 6);
    expect(await start.item()).toBeCloseTo(1, 6);
  });

  it("leaves gradients that outlive the scope of the loss", async () => {
    const w = tensor([1, 2]).requireGrad();
    scope(() => w.mul(w).sum().backward());
    scope(() => w.mul(w).sum().backward());
    expect(await list(w.grad)).toEqual([4, 8]);
  });

  it("refuses what has no derivative, or more than one element", () => {
    const w = tensor([1, 2]).requireGrad();
    expect(() => tensor([1, 2]).sum().backward()).toThrow("depends on no tensor that needs a gradient");
    expect(() => noGrad(() => w.mul(w).sum()).backward()).toThrow("compute outside of noGrad()");
    expect(() => w.mul(w).backward()).toThrow("the loss must have one element, this one is [2]");
    expect(() => tensor([1, 2], [2], "i32").requireGrad()).toThrow("a i32 tensor has no derivatives");
  });

  it("inside of a compiled step: an error that names grads(), on both devices", async () => {
    for (const on of [reference, gpu]) {
      setDevice(on);
      const w = tensor([1, 2]).requireGrad();
      const step = compile((x: Tensor) => {
        const loss = w.mul(x).sum();
        loss.backward();
        return loss;
      });
      expect(() => step(tensor([3, 4]))).toThrow(
        "backward: a compiled step returns its derivatives; use grads()",
      );
      expect(w.grad).toBeNull();
    }
  });
});

describe("String of a tensor", () => {
  it("shows values as PyTorch prints them", () => {
    const x = tensor([
      [1.5, -2],
      [30, 0.25],
    ]);
    expect(String(x)).toBe(
      "tensor([[ 1.5000, -2.0000],\n        [30.0000,  0.2500]], f32[2, 2] on reference)",
    );
    expect(String(x.t().gt(0))).toBe(
      "tensor([[ true,  true],\n        [false,  true]], bool[2, 2] on reference)",
    );
    expect(String(tensor([1, 2, 3]))).toBe("tensor([1., 2., 3.], f32[3] on reference)");
    expect(String(tensor(7, [], "i32"))).toBe("tensor(7, i32[] on reference)");
    expect(String(tensor([1e-6, 1, Number.NaN, -1 / 0]))).toContain(
      "[1.0000e-6, 1.0000e+0,       nan,      -inf]",
    );
    expect(String(tensor([]))).toBe("tensor([], f32[0] on reference)");
    expect(String(k.reshape(tensor([1, 2, 3, 4]), [2, 1, 2]))).toBe(
      "tensor([[[1., 2.]],\n\n        [[3., 4.]]], f32[2, 1, 2] on reference)",
    );
  });

  it("shortens long axes", () => {
    const wide = k.expand(tensor([[0], [1], [2]]), [3, 400]);
    expect(String(wide).split("\n")[1]).toBe("        [1., 1., 1., ..., 1., 1., 1.],");
  });

  it("on the adapter shows what was uploaded or read, until it is overwritten", async () => {
    setDevice(gpu);
    const x = tensor([1, 2]);
    expect(String(x)).toBe("tensor([1., 2.], f32[2] on webgpu)");
    const y = x.mul(2);
    expect(String(y)).toBe("tensor(f32[2] on webgpu; values: await show())");
    expect(await y.show()).toBe("tensor([2., 4.], f32[2] on webgpu)");
    expect(String(y)).toBe("tensor([2., 4.], f32[2] on webgpu)");
    k.addInto(y, x);
    expect(String(y)).toContain("await show()");
    expect(inspect({ y })).toContain("f32[2] on webgpu");
  });
});
