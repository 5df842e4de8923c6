import { afterAll, beforeAll, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { dispose } from "../core/scope.ts";
import { full, type Tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";

// Code without scopes gives its memory back also where it never awaits, and nothing that is still held.
const mebibyte = 2 ** 18; // elements of f32
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const reserved = () => gpu.pool.bytesReserved / 2 ** 20;
const value = async (t: Tensor) => (await t.data())[5];

it("a loop of 1,500 additions of 1 MiB without an await holds less than 400 MiB", async () => {
  const one = full([mebibyte], 1);
  let x = full([mebibyte], 0);
  let most = 0;
  for (let i = 0; i < 1500; i++) {
    x = k.add(x, one);
    most = Math.max(most, reserved());
  }
  expect(most).toBeLessThan(400);
  expect(await value(x)).toBe(1500);
});

it("what is held, directly, in a view or for a derivative, stays", async () => {
  const one = full([mebibyte], 1);
  const kept: Tensor[] = [];
  let leaf: Tensor | null = full([mebibyte], 3).requireGrad();
  const wanted = leaf;
  const y = k.sum(k.square(k.square(leaf)));
  leaf = null;
  for (let i = 0; i < 1200; i++) {
    const made = k.add(one, i);
    if (i % 24 === 0) kept.push(i % 48 === 0 ? made : k.reshape(made, [2, -1]));
  }
  for (const [i, t] of kept.entries()) {
    const flat = k.reshape(t, [-1]);
    expect(await value(flat)).toBe(24 * i + 1);
  }
  expect(await value(grads(y, [wanted])[0]!)).toBe(4 * 27);
  dispose(kept);
});
