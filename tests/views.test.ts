import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { device, setDevice } from "../core/device.ts";
import { numel } from "../core/shape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import * as k from "../kernels/index.ts";

const iota = (...shape: number[]) =>
  tensor(
    Array.from({ length: numel(shape) }, (_, i) => i),
    shape,
  );
const list = async (t: Tensor) => Array.from(await t.data());

beforeAll(async () => {
  await k.openDevice();
});
afterAll(() => setDevice(null));

describe("neighbours of a view", () => {
  it("stay as they are when it is assigned to or added to", async () => {
    for (const assign of [k.assignInto, k.addInto]) {
      const whole = iota(2, 65);
      const source = tensor(new Array(65).fill(1000), [65]);
      assign(k.narrow(whole, 0, 0, 1), k.reshape(source, [1, 65]));
      expect((await list(whole)).slice(64, 69)).toEqual([assign === k.addInto ? 1064 : 1000, 65, 66, 67, 68]);
    }
  });

  it("stay as they are when f16 is written from the host, or it says what to write instead", async () => {
    const gpu = await k.openDevice();
    if (!gpu.profile.f16) return;
    const whole = tensor([1, 2, 3, 4, 5, 6], [2, 3], "f16");
    expect(() => k.narrow(whole, 0, 0, 1).write([7, 7, 7])).toThrow("write a view of even offset and size");
    expect(() => k.narrow(whole, 0, 1, 1).write([7, 7, 7])).toThrow("write a view of even offset and size");
    whole.write([6, 5, 4, 3, 2, 1]);
    expect(await list(whole)).toEqual([6, 5, 4, 3, 2, 1]);
  });

  it("do not reach a product: every kernel finds where the view begins", async () => {
    const gpu = await k.openDevice();
    const x = iota(96, 4);
    const w = iota(4, 5);
    const expected = await list(
      k.matmul(
        tensor(
          Array.from({ length: 32 }, (_, i) => 256 + i),
          [8, 4],
        ),
        w,
      ),
    );
    for (const variant of [undefined, "plain"]) {
      if (variant) gpu.forcedVariant.set("matmul", variant);
      expect(await list(k.matmul(k.narrow(x, 0, 64, 8), w)), variant ?? "chosen").toEqual(expected);
    }
    gpu.forcedVariant.clear();
  });

  it("rope of heads in reverse is the reverse of rope", async () => {
    const x = iota(1, 3, 4, 8);
    const positions = tensor([0, 1, 2], [1, 3], "i32");
    const frequencies = tensor([1, 0.5, 0.25, 0.125]);
    const turn = (t: Tensor) => k.rope(t, frequencies, positions);
    expect(await list(turn(k.flip(x, [2])))).toEqual(await list(k.flip(turn(x), [2])));
  });
});

describe("views", () => {
  it("share memory", () => {
    const x = iota(4, 6);
    const views = [
      k.reshape(x, [2, 2, -1]),
      k.transpose(x),
      k.expand(k.unsqueeze(x, 0), [3, -1, -1]),
      k.slice(x, [1, null, 2], [null, null, -1]),
      k.slice(x, -1, null, [1, 4]),
      k.flip(x, [0, 1]),
      k.narrow(x, 1, 2, 3),
      k.squeeze(k.reshape(x, [4, 1, 6])),
    ];
    for (const view of views) expect(view.storage).toBe(x.storage);
    expect(k.reshape(k.transpose(x), [24]).storage).not.toBe(x.storage);
    // Axes that are still walked as one need no copy.
    expect(k.reshape(k.permute(iota(2, 3, 4), [2, 0, 1]), [4, 6]).strides).toEqual([1, 4]);
  });

  it("slice as Python does", async () => {
    const start = fc.option(fc.integer({ min: -9, max: 9 }));
    const step = fc.integer({ min: -4, max: 4 }).filter((s) => s !== 0);
    await fc.assert(
      fc.asyncProperty(start, start, step, async (from, to, by) => {
        const values = [0, 1, 2, 3, 4, 5, 6];
        const clip = (v: number) => Math.min(by > 0 ? 7 : 6, Math.max(by > 0 ? 0 : -1, v < 0 ? v + 7 : v));
        const expected: number[] = [];
        const stop = to === null ? (by > 0 ? 7 : -1) : clip(to);
        for (let i = from === null ? (by > 0 ? 0 : 6) : clip(from); by > 0 ? i < stop : i > stop; i += by)
          expected.push(values[i]);
        expect(await list(k.slice(iota(7), [from, to, by]))).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });

  it("slice by indices, ranges, new axes and what lies between", async () => {
    const x = iota(2, 3, 4);
    expect(await x.slice(1, [1, 3], -1).toArray()).toEqual([19, 23]);
    expect(await x.slice("...", 2).toArray()).toEqual([
      [2, 6, 10],
      [14, 18, 22],
    ]);
    expect(x.slice([0, 1], null, "...", [null, null, 2], null).shape).toEqual([1, 1, 3, 2, 1]);
    expect(await x.slice(0, ":", 0).toArray()).toEqual([0, 4, 8]);
    expect(x.slice().shape).toEqual([2, 3, 4]);
    expect(() => x.slice(2)).toThrow("slice(f32[2, 3, 4]): axis 0 has 2 elements and none at 2");
    expect(() => x.slice(0, 0, 0, 0)).toThrow("has no 4 axes to slice");
    expect(() => x.slice("...", "...")).toThrow('takes "..." once');
    expect(() => x.slice([0, 1, 0])).toThrow("a step must be a whole number other than 0, not 0");
  });

  it("give the derivatives of what they read", async () => {
    const weights = (t: Tensor) => k.sum(k.mul(k.mul(t, t), iota(...t.shape)));
    const cases: [string, (x: Tensor) => Tensor][] = [
      ["reshape", (x) => k.reshape(x, [8, 3])],
      ["reshape of a transposed", (x) => k.reshape(k.transpose(x, 0, 2), [4, 6])],
      ["permute", (x) => k.permute(x, [2, 0, 1])],
      ["expand", (x) => k.expand(k.unsqueeze(x, 1), [2, 5, 3, 4])],
      ["slice", (x) => k.slice(x, [], [2, null, -2], [1, 4, 2])],
      ["index", (x) => k.slice(x, "...", null, -2).slice(1, ":", [null, null, -1])],
      ["flip", (x) => k.flip(x, [0, 2])],
      ["split", (x) => k.split(x, [1, 3], 2)[1]],
      ["pad", (x) => k.pad(x, [1, 2, 0, 1], 7)],
      ["cat", (x) => k.cat([x, k.flip(x, 1), x], 1)],
      ["stack", (x) => k.stack([x, k.square(x)], -1)],
      ["tril", (x) => k.tril(x, 1)],
    ];
    const host = Array.from({ length: 24 }, (_, i) => Math.sin(i * 1.7));
    k.openReference();
    for (const [label, f] of cases) {
      const make = (values: number[]) => tensor(values, [2, 3, 4]).requireGrad();
      const x = make(host);
      const [first] = grads(weights(f(x)), [x], { createGraph: true });
      const [second] = grads(k.sum(k.square(first!)), [x]);
      const at = 13;
      const moved = (h: number) => make(host.map((v, i) => (i === at ? v + h : v)));
      const loss = async (h: number) => await weights(f(moved(h))).item();
      const slope = async (h: number) => {
        const y = moved(h);
        return await k.sum(k.square(grads(weights(f(y)), [y])[0]!)).item();
      };
      const h = 1e-5;
      expect((await list(first!))[at], label).toBeCloseTo(((await loss(h)) - (await loss(-h))) / (2 * h), 4);
      const expected = ((await slope(h)) - (await slope(-h))) / (2 * h);
      expect(
        (await list(second!))[at] / Math.max(1, Math.abs(expected)),
        `${label}, second order`,
      ).toBeCloseTo(expected / Math.max(1, Math.abs(expected)), 4);
    }
    await k.openDevice();
  });

  it("say what does not fit", () => {
    const x = iota(2, 3);
    expect(() => k.reshape(x, [4, 2])).toThrow("reshape(f32[2, 3]): its 6 elements do not fill [4, 2]");
    expect(() => k.expand(x, [2, 4])).toThrow("cannot be repeated to fill [2, 4]");
    expect(() => k.permute(x, [0, 0])).toThrow("expected each of its 2 axes once");
    expect(() => k.split(x, [1, 1], 1)).toThrow("do not add up to 3");
    expect(() => k.transpose(x, 0, 2)).toThrow("dim 2 is out of range");
    expect(() => k.cat([x, iota(3, 2)], 0)).toThrow("differ along axis 0 only");
  });
});

describe("reductions", () => {
  it("sum a million elements to 1e-5", async () => {
    const values = Float32Array.from({ length: 1_000_000 }, (_, i) => 0.1 + ((i * 7919) % 1000) / 1000);
    const exact = values.reduce((a, b) => a + b, 0);
    const x = tensor(values);
    expect((await k.sum(x).item()) / exact).toBeCloseTo(1, 5);
    expect((await list(k.cumsum(x, 0))).at(-1)! / exact).toBeCloseTo(1, 5);
    const columns = await list(k.sum(k.reshape(x, [8000, 125]), 0));
    const column = values.filter((_, i) => i % 125 === 3).reduce((a, b) => a + b, 0);
    expect(columns[3] / column).toBeCloseTo(1, 5);
  });

  it("take any set of axes", async () => {
    const x = iota(2, 3, 4);
    expect(await list(k.sum(x, [0, 2]))).toEqual([60, 92, 124]);
    expect(await list(k.amax(x, [0, 2]))).toEqual([15, 19, 23]);
    expect(k.amin(x, [-1, 0], true).shape).toEqual([1, 3, 1]);
    expect(await k.mean(x).item()).toBe(11.5);
    expect(await k.argmax(x).item()).toBe(23);
    expect(await k.variance(iota(4), 0).item()).toBeCloseTo(5 / 3, 5);
  });

  it("share a maximum's gradient evenly over ties in all reduced axes", async () => {
    const x = tensor([3, 3, 0, 3, 1, 2], [2, 3]).requireGrad();
    const [dx] = grads(k.amax(x), [x]);
    (await list(dx!)).forEach((v, i) => {
      expect(v).toBeCloseTo([1 / 3, 1 / 3, 0, 1 / 3, 0, 0][i], 6);
    });
  });

  it("know the product's gradient at zeros", async () => {
    const x = tensor([2, 0, 3, 0, 0, 5, 1, 2, 3], [3, 3]).requireGrad();
    const [dx] = grads(k.sum(k.prod(x, 1)), [x]);
    (await list(dx!)).forEach((v, i) => {
      expect(v).toBeCloseTo([0, 6, 0, 0, 0, 0, 6, 3, 2][i], 4);
    });
  });

  it("hold logsumexp where exp overflows, and of nothing finite", async () => {
    const x = tensor([1000, 1000, -1000, -1000], [2, 2]).requireGrad();
    const y = k.logsumexp(x, 1);
    const values = await list(y);
    expect(values[0]).toBeCloseTo(1000 + Math.LN2, 3);
    expect(values[1]).toBeCloseTo(-1000 + Math.LN2, 3);
    for (const v of await list(grads(k.sum(y), [x])[0]!)) expect(v).toBeCloseTo(0.5, 4);
    expect(await k.logsumexp(tensor([Number.NEGATIVE_INFINITY]), 0).item()).toBe(Number.NEGATIVE_INFINITY);
  });

  it("sort long rows stably, with NaN as the largest", async () => {
    const { values, indices } = k.sort(tensor([2, Number.NaN, -1, 2, 0]), 0);
    expect(await list(values)).toEqual([-1, 0, 2, 2, Number.NaN]);
    expect(await list(indices)).toEqual([2, 4, 0, 3, 1]);
    const long = Array.from({ length: 5000 }, (_, i) => (i * 7919) % 100);
    const top = k.topk(tensor(long), 60, 0);
    const order = long.map((v, i) => [v, i] as const).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    expect(await list(top.indices)).toEqual(order.slice(0, 60).map(([, i]) => i));
    expect(() => k.topk(tensor([1, 2]), 3)).toThrow("k = 3 is not within 0 to 2");
  });
});

describe("an update in place of a view", () => {
  const ranges = (extent: number) =>
    fc.oneof(
      fc.integer({ min: -extent, max: extent - 1 }),
      fc.constantFrom([null, null, 2], [null, null, -1], [1, null], [0, 1]) as fc.Arbitrary<k.Slice>,
    );

  it("changes what NumPy's indexing names and nothing else", async () => {
    const gpu = device();
    await fc.assert(
      fc.asyncProperty(ranges(3), ranges(4), ranges(5), fc.boolean(), async (a, b, c, add) => {
        const program = () => {
          const whole = iota(3, 4, 5);
          const view = k.slice(whole, a, b, c);
          (add ? k.addInto : k.assignInto)(view, k.add(k.mul(view, 0), 100));
          return whole;
        };
        const got = await list(program());
        k.openReference();
        const expected = await list(program());
        setDevice(gpu);
        expect(got).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });

  it("takes a number, a smaller shape and another dtype", async () => {
    const x = k.reshape(k.arange(6), [2, 3]);
    k.assignInto(k.slice(x, ":", 1), 9);
    k.addInto(k.slice(x, 1), tensor([1, 0, 1], [3], "bool"));
    expect(await x.tolist()).toEqual([
      [0, 9, 2],
      [4, 9, 6],
    ]);
    k.assignInto(x, tensor([1.7, -1.7, 0]));
    expect(await x.tolist()).toEqual([
      [1, -1, 0],
      [1, -1, 0],
    ]);
    const y = tensor([1, 2, 3, 4]);
    k.addInto(k.slice(y, [1]), k.slice(y, [null, -1])); // reads all before it writes
    expect(await y.tolist()).toEqual([1, 3, 5, 7]);
  });

  it("is replayed by a compiled step", async () => {
    const x = iota(3, 3);
    const step = compile((value: Tensor) => k.addInto(k.slice(x, ":", 2), value));
    for (const value of [10, 20]) step(tensor([value]));
    expect(await x.tolist()).toEqual([
      [0, 1, 32],
      [3, 4, 35],
      [6, 7, 38],
    ]);
  });

  it("is refused where elements share memory, the shape is larger, or floats meet integers", () => {
    const x = iota(2, 3);
    expect(() => k.assignInto(k.expand(tensor([1]), [3]), 1)).toThrow("share their memory; update a copy");
    expect(() => k.assignInto(x, iota(4, 2, 3))).toThrow(
      "assignInto(f32[2, 3], f32[4, 2, 3]): the second does not fit",
    );
    expect(() => k.addInto(k.arange(3), tensor([0.5]))).toThrow("floats do not fit into integers; cast()");
  });
});
