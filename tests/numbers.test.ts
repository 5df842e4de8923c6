import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { type Device, setDevice } from "../core/device.ts";
import type { DType } from "../core/dtype.ts";
import { full, ones, type Tensor, tensor, zeros } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";
import { generator } from "./support/ops_harness.ts";

const list = async (t: Tensor) => Array.from(await t.data());
const NaN_ = Number.NaN;
const Inf = Number.POSITIVE_INFINITY;
let gpu: WebGpuDevice;
const devices: Device[] = [];

beforeAll(async () => {
  devices.push(k.openReference());
  gpu = await k.openDevice();
  devices.push(gpu);
});
afterAll(() => setDevice(null));

/** Runs a body on the float64 reference and on the adapter. */
async function everywhere(body: (on: Device) => Promise<void>): Promise<void> {
  for (const on of devices) {
    setDevice(on);
    await body(on);
  }
}

const floats = (on: Device): DType[] => (on.profile.f16 ? ["f32", "f16"] : ["f32"]);

describe("NaN", () => {
  const a = [NaN_, NaN_, 1, Inf, -Inf, 0, -0, NaN_, 1];
  const b = [NaN_, 1, NaN_, Inf, -Inf, -0, 0, Inf, 2];
  const comparisons = {
    eq: [k.eq, (x: number, y: number) => x === y],
    ne: [k.ne, (x: number, y: number) => x !== y],
    lt: [k.lt, (x: number, y: number) => x < y],
    le: [k.le, (x: number, y: number) => x <= y],
    gt: [k.gt, (x: number, y: number) => x > y],
    ge: [k.ge, (x: number, y: number) => x >= y],
    and: [k.logicalAnd, (x: number, y: number) => x !== 0 && y !== 0],
    or: [k.logicalOr, (x: number, y: number) => x !== 0 || y !== 0],
  } as const;

  it("differs from all numbers and itself, is in no order with them, and is true", () =>
    everywhere(async (on) => {
      for (const dtype of floats(on)) {
        // Eight more make the kernels take four at a time; reversed they read one by one.
        const [x, y] = [tensor([...a, ...a, 1, 1], [20], dtype), tensor([...b, ...b, 1, 1], [20], dtype)];
        for (const [name, [op, rule]] of Object.entries(comparisons)) {
          const right = [...a, ...a, 1, 1].map((v, i) => Number(rule(v, [...b, ...b, 1, 1][i])));
          expect(await list(op(x, y)), `${name} ${dtype} on ${on.kind}`).toEqual(right);
          expect(await list(op(k.flip(x, 0), k.flip(y, 0))), `${name} ${dtype} reversed`).toEqual(
            right.reverse(),
          );
        }
        expect(await list(k.logicalNot(x))).toEqual([...a, ...a, 1, 1].map((v) => Number(v === 0)));
        expect(await list(k.cast(x, "bool"))).toEqual([...a, ...a, 1, 1].map((v) => Number(v !== 0)));
        expect(await list(k.where(k.ne(x, x), 7, 0))).toEqual(
          [...a, ...a, 1, 1].map((v) => (Number.isNaN(v) ? 7 : 0)),
        );
      }
      expect(await list(tensor([NaN_, 0, 2], [3], "bool"))).toEqual([1, 0, 1]);
      expect(await list(full([2], NaN_, "bool"))).toEqual([1, 1]);
    }));

  it("is kept by clamp, and a fused chain of comparisons says what its parts say", () =>
    everywhere(async () => {
      const x = tensor([NaN_, -1, 0.5, 3]);
      expect(await list(k.clamp(x, 0, 1))).toEqual([NaN_, 0, 0.5, 1]);
      expect(await list(k.clamp(x, NaN_, 1))).toEqual([NaN_, NaN_, NaN_, NaN_]);
      expect(await list(k.clamp(x, 0, NaN_))).toEqual([NaN_, NaN_, NaN_, NaN_]);
      expect(await list(k.clamp(x, 2, 1))).toEqual([NaN_, 1, 1, 1]);
      const step = compile((t: Tensor) => ({
        chain: k.where(k.logicalNot(k.le(k.mul(t, 2), 1)), k.add(t, 1), 0),
        truth: k.cast(k.ne(k.add(t, 1), k.add(t, 1)), "f32"),
      }));
      const { chain, truth } = step(x);
      expect(await list(chain)).toEqual([NaN_, 0, 0, 4]);
      expect(await list(truth)).toEqual([1, 0, 0, 0]);
    }));

  it("becomes 0 as an integer, and what lies beyond integers the nearest of them", () =>
    everywhere(async () => {
      const x = tensor([NaN_, 3e9, -3e9, 5e9, -1.5, 1.9, Inf, -Inf]);
      expect(await list(k.cast(x, "i32"))).toEqual([
        0, 2147483647, -2147483648, 2147483647, -1, 1, 2147483647, -2147483648,
      ]);
      expect(await list(k.cast(x, "u32"))).toEqual([0, 3e9, 0, 4294967295, 0, 1, 4294967295, 0]);
    }));
});

describe("host values", () => {
  it("of nested lists have the lists' shape; what does not fit is refused by place", () =>
    everywhere(async () => {
      const square = tensor([
        [1, 2],
        [3, 4],
      ]);
      expect([square.shape, await list(square)]).toEqual([
        [2, 2],
        [1, 2, 3, 4],
      ]);
      expect(tensor([Float32Array.of(1, 2, 3), Float32Array.of(4, 5, 6)]).shape).toEqual([2, 3]);
      expect(tensor([[[1]], [[2]]], [2], "i32").shape).toEqual([2]);
      expect(tensor([[], []]).shape).toEqual([2, 0]);
      expect(() => tensor([[1, 2], [3]])).toThrow("equally long, found a list of 2 and a list of 1");
      expect(() => tensor([[1, 2], 3])).toThrow("found a list of 2 and 3");
      expect(() => tensor([1, undefined as never])).toThrow("tensor: value 1 is undefined, not a number");
      expect(() => tensor([1, 2.5], [2], "i32")).toThrow("tensor: value 1 is 2.5, outside of i32");
      expect(() => tensor([-1], [1], "u32")).toThrow("tensor: value 0 is -1, outside of u32");
      expect(() => tensor([1e39])).toThrow("tensor: value 0 is 1e+39, outside of f32");
      expect(() => full([1], 2 ** 31, "i32")).toThrow("full: value 0 is 2147483648, outside of i32");
      expect(() => tensor([1, 2], [2], "i32").write([1, NaN_])).toThrow(
        "write: value 1 is NaN, outside of i32",
      );
      expect(() => zeros([1.5])).toThrow("extents must be whole numbers of 0 or more, not [1.5]");
      expect(() => k.reshape(tensor([1, 2, 3, 4, 5, 6]), [-2, -3])).toThrow("not [-2, -3]");
      expect(await list(tensor([2 ** 32 - 1, 16777217], [2], "u32"))).toEqual([2 ** 32 - 1, 16777217]);
    }));
});

describe("integers", () => {
  const of = (dtype: DType, ...values: number[]) => tensor(values, [values.length], dtype);

  it("are exact between whole numbers, and compare exactly with any number", () =>
    everywhere(async () => {
      const large = k.clamp(of("i32", 16777217, -5), 0);
      expect([large.dtype, await list(large)]).toEqual(["i32", [16777217, 0]]);
      expect(await list(k.clamp(of("u32", 4e9, 1), -1, 3e9))).toEqual([3e9, 1]);
      expect(await list(k.floor(of("i32", 16777217)))).toEqual([16777217]);
      expect(await list(k.sign(of("u32", 4e9, 0)))).toEqual([1, 0]);
      expect(await list(k.neg(of("u32", 1, 4e9)))).toEqual([4294967295, 294967296]);
      expect(await list(k.add(of("i32", 2147483647), 1))).toEqual([-2147483648]);
      expect(await list(k.mul(of("i32", 123456789), 987654321))).toEqual([Math.imul(123456789, 987654321)]);
      expect(await list(k.maximum(of("u32", 4e9), 3))).toEqual([4e9]);
      expect(await list(k.pad(of("i32", 1), [1, 0], 16777217))).toEqual([16777217, 1]);
      const unsigned = [0, 2, 3, 4294967295];
      const signed = [-2147483648, -3, 2, 16777217, 2147483647];
      const numbers = [-1, 2, 2.5, -2.5, 4e9, 1e20, -1e20, 16777216.5, 2147483647.5, Inf, -Inf, NaN_];
      for (const [dtype, values] of [
        ["u32", unsigned],
        ["i32", signed],
      ] as const) {
        for (const n of numbers) {
          for (const [op, rule] of Object.values({
            eq: [k.eq, (x: number) => x === n],
            ne: [k.ne, (x: number) => x !== n],
            lt: [k.lt, (x: number) => x < n],
            le: [k.le, (x: number) => x <= n],
            gt: [k.gt, (x: number) => x > n],
            ge: [k.ge, (x: number) => x >= n],
          } as const)) {
            expect(await list(op(of(dtype, ...values), n)), `${op}, ${dtype} and ${n}`).toEqual(
              values.map((v) => Number(rule(v))),
            );
          }
        }
      }
    }));

  it("refuse numbers that they do not hold, and each other's dtype", () =>
    everywhere(async () => {
      expect(() => k.add(of("i32", 1), 2 ** 31)).toThrow(
        "add: 2147483648 is outside of i32; cast the tensor",
      );
      expect(() => k.maximum(of("u32", 4e9), -1)).toThrow("maximum: -1 is outside of u32");
      expect(() => k.maskedFill(of("u32", 1), of("bool", 1), -1)).toThrow("outside of u32");
      expect(() => k.add(of("u32", 4e9), of("i32", 1))).toThrow("no dtype holds both u32 and i32");
      expect(() => k.cat([of("u32", 4e9), of("i32", 1)])).toThrow("no dtype holds both u32 and i32");
      expect(() => k.clamp(of("u32", 1), 0, -1)).toThrow("clamp: -1 is outside of u32");
      expect(() => k.mul(tensor([1]), 1e300)).toThrow("mul: 1e+300 is outside of f32");
      expect(() => k.add(tensor([1]), undefined as never)).toThrow(
        "add: b must be a tensor or a number, not undefined",
      );
      expect(() => k.add(tensor([1]), [2] as never)).toThrow(
        "add: b must be a tensor or a number, not an array",
      );
      expect(k.mul(of("i32", 3), 0.5).dtype).toBe("f32");
    }));
});

describe("accuracy far from zero", () => {
  it("of sine and cosine is 1e-6 for every f32, and they stay within 1", async () => {
    setDevice(gpu);
    const next = generator("angles");
    const bits = Uint32Array.from({ length: 1 << 18 }, () => Math.floor(next() * 2 ** 32));
    const any = new Float32Array(bits.buffer).filter(Number.isFinite);
    const line = Float32Array.from({ length: 1 << 18 }, (_, i) => (i / (1 << 18)) * 1e5);
    const multiples = Float32Array.from({ length: 1 << 14 }, (_, i) => ((i * i) / 7 + i) * (Math.PI / 2));
    const known = Float32Array.of(1454271400.98, 3.4028234e38, -8192, 8192.001, 0, 1e-30, 103993, -0.5);
    for (const angles of [any, line, multiples, known]) {
      for (const [f, exact] of [
        [k.sin, Math.sin],
        [k.cos, Math.cos],
      ] as const) {
        const got = await f(tensor(angles)).data();
        let worst = 0;
        for (let i = 0; i < got.length; i++) {
          const error = Math.abs(got[i] - exact(angles[i]));
          if (!(error <= worst)) worst = error;
          if (!(Math.abs(got[i]) <= 1)) worst = Inf;
        }
        expect(worst).toBeLessThan(1e-6);
      }
    }
    expect(await list(k.sin(tensor([Inf, -Inf, NaN_])))).toEqual([NaN_, NaN_, NaN_]);
    expect(await list(k.cos(tensor([Inf, -Inf, NaN_])))).toEqual([NaN_, NaN_, NaN_]);
  });

  it("of exponentials and logarithms is relative, near 1 and far from it, and powers follow IEEE 754", async () => {
    setDevice(gpu);
    const range = (from: number, to: number) =>
      Float32Array.from({ length: 4096 }, (_, i) => from + ((to - from) * i) / 4095);
    const cases = [
      ["exp", k.exp, Math.exp, range(-87, 88.5)],
      ["log near 1", k.log, Math.log, range(0.6, 1.4)],
      ["log", k.log, Math.log, range(-80, 80).map(Math.exp)],
      ["log1p", k.log1p, Math.log1p, range(-0.9, 20)],
      ["expm1", k.expm1, Math.expm1, range(-9, 40)],
    ] as const;
    for (const [name, f, exact, xs] of cases) {
      const got = await f(tensor(xs)).data();
      const worst = Math.max(
        ...Array.from(xs, (x, i) => (exact(x) === 0 ? Math.abs(got[i]) : Math.abs(got[i] / exact(x) - 1))),
      );
      expect(worst, name).toBeLessThan(1e-6);
    }
    expect(await list(k.exp(tensor([NaN_, Inf, -Inf, 89, -120])))).toEqual([NaN_, Inf, 0, Inf, 0]);
    await everywhere(async () => {
      const powers = [
        [1, Inf, 1],
        [-1, -Inf, 1],
        [1, NaN_, 1],
        [0.5, -Inf, Inf],
        [-0, 3, -0],
        [-0, -1, -Inf],
        [-Inf, 3, -Inf],
        [-Inf, 0.5, Inf],
        [-8, 0.5, NaN_],
        [NaN_, 0, 1],
      ] as const;
      const [a, b] = [tensor(powers.map((p) => p[0])), tensor(powers.map((p) => p[1]))];
      expect(await list(k.pow(a, b))).toEqual(powers.map((p) => p[2]));
    });
  });

  it("of layer_norm: a constant row is 0, and its gradients are those of 0", async () => {
    setDevice(gpu);
    for (const variant of ["subgroup", "thread", "workgroup"]) {
      for (const name of ["layer_norm", "layer_norm_backward"]) gpu.forcedVariant.set(name, variant);
      for (const width of [4096, 33]) {
        const [x, w, b] = [
          full([2, width], 1000.37).requireGrad(),
          ones([width]).requireGrad(),
          zeros([width]),
        ];
        const y = k.layerNorm(x, w, b);
        const slope = tensor(
          Float32Array.from({ length: 2 * width }, (_, i) => Math.sin(i)),
          [2, width],
        );
        const [dx, dw] = grads(k.sum(k.mul(y, slope)), [x, w]);
        for (const v of await list(y)) expect(Math.abs(v)).toBeLessThan(1e-6);
        for (const v of await list(dw!)) expect(Math.abs(v)).toBeLessThan(1e-6);
        const rows = [0, 1].map((r) => Array.from({ length: width }, (_, i) => Math.sin(r * width + i)));
        const right = rows.flatMap((row) => {
          const mean = row.reduce((s, v) => s + v, 0) / width;
          return row.map((v) => (v - mean) / Math.sqrt(1e-5));
        });
        (await list(dx!)).forEach((v, i) => {
          expect(Math.abs(v - right[i])).toBeLessThan(1e-3);
        });
      }
    }
    gpu.forcedVariant.clear();
  });

  it("of layer_norm and variance: what moves by hundredths around a thousand keeps the digits that f32 gives it", async () => {
    setDevice(gpu);
    const width = 4096;
    const x = Float32Array.from({ length: width }, (_, i) => 1000.37 + 0.01 * Math.sin(i));
    const mean = x.reduce((s, v) => s + v, 0) / width;
    const variance = x.reduce((s, v) => s + (v - mean) ** 2, 0) / width;
    const y = await list(k.layerNorm(tensor(x, [1, width]), ones([width]), zeros([width])));
    const worst = Math.max(...y.map((v, i) => Math.abs(v - (x[i] - mean) / Math.sqrt(variance + 1e-5))));
    expect(worst).toBeLessThan(2e-5);
    expect((await k.variance(tensor(x), 0, 0).item()) / variance).toBeCloseTo(1, 4);
    expect(await k.variance(full([width], 1000.37)).item()).toBeLessThan(1e-12);
  });
});
