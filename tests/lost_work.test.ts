import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { persist } from "../core/scope.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";

// One invalid command drops the whole command buffer that it is in: no call may put one there, and where the adapter
// refuses a submit all the same, nothing that it should have written is read as if it had been.
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const values = async (t: Tensor) => Array.from(await t.data());
const [one, hyper] = [() => persist(tensor([1])), () => persist(tensor(k.hyperValues({ lr: 0.5 })))];

describe("a tensor given twice to an op that updates in place", () => {
  it.each(["webgpu", "reference"])("is added to itself on %s, and earlier work is not lost", async (kind) => {
    const before = setDevice(kind === "webgpu" ? gpu : new ReferenceDevice());
    try {
      const w = persist(tensor([3]));
      k.addInto(w, tensor([1]));
      const x = tensor([1, 2]);
      k.addInto(x, x);
      expect(await values(x)).toEqual([2, 4]);
      expect(await values(w)).toEqual([4]);
      const shifted = tensor([1, 2, 3, ...new Array<number>(64).fill(0)]);
      k.assignInto(k.narrow(shifted, 0, 0, 3), k.narrow(shifted, 0, 1, 3));
      expect((await values(shifted)).slice(0, 3)).toEqual([2, 3, 0]);
    } finally {
      setDevice(before);
    }
  });

  it("is updated by an optimizer that is given the parameter as its gradient", async () => {
    const p = persist(tensor([1, 2]));
    k.sgdStep([{ param: p, grad: p, memory: persist(zeros([1, 2])) }], hyper(), one());
    expect(await values(p)).toEqual([0.5, 1]);
  });

  it("is refused at the call where both would be written", async () => {
    const w = persist(tensor([3]));
    k.addInto(w, tensor([1]));
    const [p, m] = [persist(tensor([1, 2])), persist(zeros([2, 2]))];
    const slots = [p, p].map((param) => ({ param, grad: tensor([1, 1]), memory: m }));
    expect(() => k.adamStep(slots, hyper(), one())).toThrow(/adam: two of the tensors/);
    const cache = persist(zeros([1, 1, 1, 4]));
    const row = tensor([1, 2, 3, 4], [1, 1, 4]);
    expect(() => k.pagedKvWrite(cache, cache, row, row, tensor([0], [1], "i32"))).toThrow(/share memory/);
    expect(await values(w)).toEqual([4]);
    expect(await values(p)).toEqual([1, 2]);
  });

  it("is copied in a compiled step too", async () => {
    const x = persist(tensor([1, 2]));
    const step = compile(() => k.addInto(x, x));
    step();
    step();
    expect(await values(x)).toEqual([4, 8]);
  });
});

describe("a kernel that does not compile", () => {
  const bad = "fn main( {";
  const original = () => gpu.gpu.createShaderModule.bind(gpu.gpu);
  /** Runs `body` while every new kernel is nonsense. */
  function broken<T>(body: () => T): T {
    const create = original();
    gpu.gpu.createShaderModule = (d) => create({ ...d, code: bad });
    try {
      return body();
    } finally {
      gpu.gpu.createShaderModule = create;
    }
  }

  it("throws at the call, each time, and takes nothing with it", async () => {
    const w = persist(tensor([3]));
    k.addInto(w, tensor([1]));
    const x = tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    for (let i = 0; i < 2; i++) {
      expect(() => broken(() => k.cumsum(x, 0))).toThrow(KilnError);
      expect(() => broken(() => k.cumsum(x, 0))).toThrow(/expected '\)' for function declaration/);
    }
    expect(await values(w)).toEqual([4]);
    expect(await values(k.cumsum(x, 0))).toEqual([1, 2, 3, 5, 7, 9]);
  });

  it("throws before a compiled step has begun", async () => {
    const w = persist(tensor([3]));
    k.addInto(w, tensor([1]));
    const step = compile((x: Tensor) => {
      k.addInto(w, k.reshape(k.sum(x), [1]));
      return k.cumsum(k.tanh(x), 1);
    });
    const x = tensor([0, 0, 0, 0], [2, 2]);
    expect(() => broken(() => step(x))).toThrow(KilnError);
    expect(await values(w)).toEqual([4]);
    expect(await values(step(x))).toEqual([0, 0, 0, 0]);
    expect(await values(w)).toEqual([4]);
  });
});

describe("a submit that the adapter refuses", () => {
  beforeEach(() => gpu.sync());
  /** Leaves an invalid command in the open encoder, as a driver's fault would. */
  const spoil = () => gpu.recorder.copy(gpu.recorder.ring, 1, gpu.recorder.ring, 0, 4);

  it("leaves nothing behind that reads as if all were well", async () => {
    const [w, untouched] = [persist(tensor([3])), persist(tensor([8]))];
    const before = k.mul(w, 2);
    expect(await values(before)).toEqual([6]);
    k.addInto(w, tensor([1]));
    spoil();
    gpu.recorder.flush();
    const later = k.mul(w, 10); // recorded before anybody knows
    await expect(gpu.sync()).rejects.toThrow(/WebGPU/);
    for (let i = 0; i < 2; i++) {
      await expect(w.data()).rejects.toThrow(/its value is lost/);
      await expect(later.data()).rejects.toThrow(/its value is lost/);
    }
    expect(() => k.mul(w, 2)).toThrow(/its value is lost/);
    expect(() => compile(() => k.mul(w, 2))()).toThrow(/its value is lost/);
    expect(await values(untouched)).toEqual([8]);
    expect(await values(before)).toEqual([6]);
    w.write([5]);
    expect(await values(k.mul(w, 2))).toEqual([10]);
  });

  it("fails the read that was in it, and no other", async () => {
    const [a, b] = [persist(tensor([1])), persist(tensor([2]))];
    spoil();
    const both = await Promise.allSettled([a.data(), b.data()]);
    expect(both.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    expect(await values(a)).toEqual([1]);
    expect(await values(b)).toEqual([2]);
  });

  it("loses what a compiled step updates, and not what it makes anew", async () => {
    const w = persist(tensor([3]));
    const doubled = compile((x: Tensor) => k.mul(x, 2));
    const step = compile((x: Tensor) => {
      k.addInto(w, x);
      return k.mul(x, 3);
    });
    const x = persist(tensor([1]));
    step(x);
    expect(await values(doubled(x))).toEqual([2]);
    expect(await values(w)).toEqual([4]);
    const lost = [step(x), doubled(tensor([7]))];
    spoil();
    for (const t of lost) await expect(t.data()).rejects.toThrow(/WebGPU/);
    await expect(w.data()).rejects.toThrow(/its value is lost/);
    expect(() => step(tensor([1]))).toThrow(/its value is lost/);
    expect(await values(doubled(tensor([4])))).toEqual([8]);
    w.write([1]);
    expect(await values(step(tensor([2])))).toEqual([6]);
    expect(await values(w)).toEqual([3]);
  });
});
