import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { fromHalf, toHalf } from "../core/dtype.ts";
import { apply, Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { compileClosure } from "../kernels/elementwise/evaluate.ts";
import { erf } from "../kernels/elementwise/functions.ts";
import * as lang from "../kernels/elementwise/fuse.ts";
import * as k from "../kernels/index.ts";

/** Random expressions over x0 and x1, with values on which every function is defined. */
const { tree } = fc.letrec<{ tree: lang.Expr }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(lang.name("x0"), lang.name("x1")),
    fc.integer({ min: 0, max: 9 }).map((n) => lang.number(n / 4)),
    fc
      .tuple(fc.constantFrom("+", "-", "*"), tie("tree"), tie("tree"))
      .map(([fn, a, b]) => lang.call(fn, a, b)),
    fc
      .tuple(fc.constantFrom("tanh", "sigmoid", "sin", "neg", "softplus"), tie("tree"))
      .map(([fn, a]) => lang.call(fn, a)),
    fc
      .tuple(tie("tree"), tie("tree"), tie("tree"))
      .map(([m, a, b]) => lang.call("where", lang.call("<", m, lang.number(1)), a, b)),
  ),
}));

describe("the formula language", () => {
  it("parses what it prints to the same tree", async () => {
    await fc.assert(
      fc.property(tree, (e) => {
        expect(lang.print(lang.parse(lang.print(e)))).toBe(lang.print(e));
      }),
    );
  });

  it("binds operators as in algebra", () => {
    expect(lang.print(lang.parse("a - b - c * -d < e"))).toBe("(((a - b) - (c * (-d))) < e)");
    expect(() => lang.parse("a +")).toThrow("cannot read the formula");
    expect(() => lang.parse("a b")).toThrow("cannot read the formula");
  });

  it("derives by the chain rule: equal to finite differences", async () => {
    const point = fc.double({ min: -1.5, max: 1.5, noNaN: true });
    await fc.assert(
      fc.property(tree, point, point, (e, x, y) => {
        const f = compileClosure(e, ["x0", "x1"]);
        const slope = compileClosure(lang.derivative(e, "x0"), ["x0", "x1"])(Float64Array.of(x, y));
        const h = 1e-6;
        const [up, mid, down] = [x + h, x, x - h].map((at) => f(Float64Array.of(at, y))) as [
          number,
          number,
          number,
        ];
        const left = (mid - down) / h;
        const right = (up - mid) / h;
        const scale = Math.max(1, Math.abs(left), Math.abs(slope));
        // At the jump of a comparison the two sides differ: there is no derivative to compare with.
        fc.pre(Math.abs(left - right) < 1e-3 * scale && scale < 1e4);
        expect(Math.abs((left + right) / 2 - slope)).toBeLessThan(2e-3 * scale);
      }),
    );
  });

  it("substitutes all names at once and counts a shared part's cost once", () => {
    const swapped = lang.substitute(
      lang.parse("a - b"),
      new Map([
        ["a", lang.name("b")],
        ["b", lang.name("a")],
      ]),
    );
    expect(lang.print(swapped)).toBe("(b - a)");
    expect(lang.cost(lang.parse("tanh(a) * tanh(a)"))).toBe(9);
  });

  it("knows erf to full precision", () => {
    expect(erf(0.5)).toBeCloseTo(0.5204998778130465, 14);
    expect(erf(-2)).toBeCloseTo(-0.9953222650189527, 14);
    expect(erf(7)).toBe(1);
  });
});

describe("fusing", () => {
  it("writes a chain as one formula over its outer inputs", async () => {
    k.openReference();
    const [x, y] = [tensor([1, -2, 3]), tensor([0.5, 4, -1])];
    const inner = lang.elementwiseProgram("mul", ["f32", "f32"], {})!;
    const outer = lang.elementwiseProgram("add", ["f32"], { b: 2 })!;
    const whole = lang.fuseInto(outer, 0, inner, 1)!;
    expect(lang.print(whole.expr)).toBe("((x0 * x1) + s0)");
    const made = apply(lang.fused, [x, y], { ...whole, expr: lang.print(whole.expr) })[0];
    expect(Array.from(await made.data())).toEqual([2.5, -6, -1]);
    setDevice(null);
  });

  it("numbers inputs and scalars of both parts, and refuses what would change the values", () => {
    const swiglu = lang.elementwiseProgram("swiglu", ["f32", "f32"], {})!;
    const clamp = lang.elementwiseProgram("clamp", ["f32"], { min: 0, max: 6 })!;
    const scaled = lang.elementwiseProgram("mul", ["f32"], { b: 3 })!;
    const gate = lang.fuseInto(swiglu, 0, clamp, 2)!;
    expect(lang.print(gate.expr)).toContain("x1)");
    const both = lang.fuseInto(gate, 1, scaled, 2)!;
    expect(both.scalars).toEqual([0, 6, 3]);
    expect(lang.names(both.expr)).toEqual(new Set(["x0", "x1", "s0", "s1", "s2"]));
    // An intermediate f16 or integer rounds; a formula in f32 would not.
    expect(lang.fuseInto(swiglu, 0, { ...clamp, dtype: "f16" }, 2)).toBeNull();
    expect(lang.fuseInto(swiglu, 0, { ...clamp, compute: "i32", dtype: "i32" }, 2)).toBeNull();
  });
});

describe("elementwise on the adapter", () => {
  let gpu: WebGpuDevice;
  beforeAll(async () => {
    gpu = await k.openDevice();
  });
  afterAll(() => setDevice(null));

  it("holds at large and special values", async () => {
    const x = tensor([-1e30, -100, -20, 0, 20, 100, 1e30, Number.POSITIVE_INFINITY, Number.NaN]);
    const list = async (t: Tensor) => Array.from(await t.data());
    expect(await list(k.tanh(x))).toEqual([-1, -1, -1, 0, 1, 1, 1, 1, Number.NaN]);
    const big = await list(k.softplus(x));
    expect(big.slice(4)).toEqual([20, 100, Math.fround(1e30), Number.POSITIVE_INFINITY, Number.NaN]);
    expect(await list(k.isnan(x))).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 1]);
    expect(await list(k.isfinite(x))).toEqual([1, 1, 1, 1, 1, 1, 1, 0, 0]);
    expect(await list(k.relu(x))).toEqual([
      0,
      0,
      0,
      0,
      20,
      100,
      Math.fround(1e30),
      Number.POSITIVE_INFINITY,
      Number.NaN,
    ]);
    expect((await list(k.sigmoid(x)))[1]).toBeLessThan(1e-6);
    const masked = k.maskedFill(tensor([1, 2]), k.gt(tensor([1, 2]), 1), Number.NEGATIVE_INFINITY);
    expect(await list(masked)).toEqual([1, Number.NEGATIVE_INFINITY]);
  });

  it("keeps a tensor's dtype against numbers, as Python does", async () => {
    const whole = tensor([1, 2, 3], [3], "i32");
    expect(k.add(whole, 2).dtype).toBe("i32");
    expect(k.mul(whole, 0.5).dtype).toBe("f32");
    expect(k.div(whole, 2).dtype).toBe("f32");
    expect(k.lt(whole, 2).dtype).toBe("bool");
    const yes = k.lt(whole, 3);
    expect(k.add(yes, yes).dtype).toBe("i32");
    expect(Array.from(await k.add(yes, yes).data())).toEqual([2, 2, 0]);
    const large = tensor([2 ** 24 + 1], [1], "i32");
    expect(Array.from(await k.add(large, large).data())).toEqual([2 ** 25 + 2]);
    expect(Array.from(await k.cast(tensor([-1.9, 1.9]), "i32").data())).toEqual([-1, 1]);
    expect(() => k.where(whole, 1, 0)).toThrow("condition must be bool");
    expect(() => k.add(whole, tensor([1, 2]))).toThrow("do not broadcast");
  });

  it("mixes f16 and f32", async () => {
    if (!gpu.profile.f16) return;
    const half = tensor([0.1, 0.2], [2], "f16");
    expect(k.mul(half, 3).dtype).toBe("f16");
    const sum = k.add(half, tensor([1, 1]).requireGrad());
    expect(sum.dtype).toBe("f32");
    expect(Array.from(await sum.data())[0]).toBeCloseTo(1 + fromHalf(toHalf(0.1)), 6);
  });

  it("gives the cotangent of a broadcast operand its own shape and dtype", async () => {
    const x = tensor([1, 2, 3, 4, 5, 6], [2, 3]).requireGrad();
    const row = tensor([1, 0, -1]).requireGrad();
    const [dx, dRow] = grads(k.sum(k.mul(x, row)), [x, row]);
    expect(Array.from(await dx!.data())).toEqual([1, 0, -1, 1, 0, -1]);
    expect(Array.from(await dRow!.data())).toEqual([5, 7, 9]);
  });

  it("splits the gradient of ties, and gives what is selected its own", async () => {
    const x = tensor([1, 2]).requireGrad();
    const [dx] = grads(k.sum(k.maximum(x, 1)), [x]);
    expect(Array.from(await dx!.data())).toEqual([0.5, 1]);
    const y = tensor([-1, 4]).requireGrad();
    const [dy] = grads(k.sum(k.where(k.gt(y, 0), k.sqrt(y), 0)), [y]);
    expect(Array.from(await dy!.data())[1]).toBe(0.25);
  });

  it("compiles nothing for another number or another size", async () => {
    await k.mul(tensor([1, 2, 3]), 0.1).data();
    const before = gpu.pipelines.count;
    await k.mul(tensor([1, 2, 3, 4, 5, 6, 7]), 0.2).data();
    await k.mul(tensor([[1], [2]].flat(), [2, 1]), -3).data();
    expect(gpu.pipelines.count).toBe(before);
  });

  it("equals plain loops for any two shapes and strides that broadcast", async () => {
    const axes = fc.array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.boolean(), fc.boolean()), {
      maxLength: 5,
    });
    await fc.assert(
      fc.asyncProperty(axes, fc.boolean(), async (list, reversed) => {
        const shapeOf = (which: 1 | 2) => list.map((axis) => (axis[which] ? 1 : axis[0]));
        const make = (shape: number[], seed: number) => {
          const size = shape.reduce((a, b) => a * b, 1);
          const t = tensor(
            Array.from({ length: size }, (_, i) => ((i * 7 + seed) % 11) - 5),
            shape,
          );
          return reversed
            ? k.permute(
                t,
                shape.map((_, i) => shape.length - 1 - i),
              )
            : t;
        };
        const [a, b] = [make(shapeOf(1), 1), make(shapeOf(2), 4)];
        const result = k.sub(a, b);
        const [wideA, wideB] = [k.expand(a, result.shape), k.expand(b, result.shape)];
        const [va, vb] = [await cells(wideA), await cells(wideB)];
        expect(Array.from(await result.data())).toEqual(va.map((v, i) => v - vb[i]));
      }),
      { numRuns: 25 },
    );
  });
});

/** A view's elements in row-major order, found on the host. */
async function cells(t: Tensor): Promise<number[]> {
  const memory = await new Tensor(t.storage, [t.storage.length]).data();
  return Array.from({ length: t.size }, (_, i) => {
    let rest = i;
    let at = t.offset;
    for (let axis = t.rank - 1; axis >= 0; axis--) {
      at += (rest % t.shape[axis]) * t.strides[axis];
      rest = Math.floor(rest / t.shape[axis]);
    }
    return memory[at];
  });
}
