import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { full, type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";

/**
 * Steps traced by `compile` run fewer dispatches and give eager's values. A shader compiler may reorder what stands in
 * one kernel (WGSL allows fused multiply-add and reassociation; Mesa also loses signs of zeros), which it cannot do
 * across kernels: chains that round are compared to 8 units in the last place, random programs compute only what
 * floats hold exactly and are compared by value.
 */
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await k.openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

function expectSame(actual: readonly number[][], expected: readonly number[][]): void {
  expect(actual.map((list) => list.length)).toEqual(expected.map((list) => list.length));
  const errors = actual.flatMap((list, i) =>
    list.map((value, at) => Math.abs(value - expected[i][at]) / Math.max(1, Math.abs(expected[i][at]))),
  );
  expect(errors.every((e) => e < 2 ** -20)).toBe(true);
}

const read = (list: readonly Tensor[]) => Promise.all(list.map(async (t) => Array.from(await t.data())));

/** Dispatches of a step run eagerly and replayed; checks that both give the same values. */
async function dispatches(
  step: (...args: Tensor[]) => Tensor | Tensor[],
  args: Tensor[],
): Promise<{ eager: number; compiled: number }> {
  const run = async (body: typeof step) => {
    const before = gpu.recorder.dispatches;
    const made = [scope(() => body(...args))].flat();
    const count = gpu.recorder.dispatches - before;
    const values = await read(made);
    dispose(made);
    return { count, values };
  };
  const eager = await run(step);
  const replayed = compile(step);
  const first = await run(replayed);
  const second = await run(replayed);
  expectSame(first.values, eager.values);
  expect(second.values).toEqual(first.values);
  return { eager: eager.count, compiled: second.count };
}

/** Values that repeat only after 251 elements, within [-2, 2]. */
function filled(shape: number[], seed = 1): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    Array.from({ length: size }, (_, i) => (((i * 37 + seed * 101) % 251) - 125) / 64),
    shape,
  );
}

describe("what is merged", () => {
  it("writes a gate, a sum of four, and an activation of a biased row in one pass each", async () => {
    const [a, b, c, d] = [1, 2, 3, 4].map((seed) => filled([6, 20], seed)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    const gate = await dispatches((x, y) => k.mul(k.silu(x!), y!), [a, b]);
    expect(gate).toEqual({ eager: 2, compiled: 1 });
    const four = await dispatches((w, x, y, z) => k.add(k.add(k.add(w!, x!), y!), z!), [a, b, c, d]);
    expect(four).toEqual({ eager: 3, compiled: 1 });
    const biased = await dispatches((x, bias) => k.gelu(k.add(x!, bias!)), [a, filled([20])]);
    expect(biased).toEqual({ eager: 2, compiled: 1 });
    const masked = await dispatches((x, y) => k.where(k.gt(x!, 0.5), y!, x!), [a, b]);
    expect(masked).toEqual({ eager: 2, compiled: 1 });
  });

  it("reads at most seven tensors in a pass", async () => {
    const terms = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((seed) => filled([12], seed));
    const counts = await dispatches((...given) => given.reduce((a, b) => k.add(a, b)), terms);
    expect(counts).toEqual({ eager: 8, compiled: 2 });
  });

  it("adds up the gradients of several uses as the products are stored", async () => {
    const given = [1, 2, 3, 4].map((seed) => filled([8, 8], seed));
    const counts = await dispatches((x, ...weights) => {
      const leaf = x!.detach().requireGrad();
      const loss = weights.map((w) => k.sum(k.matmul(leaf, w))).reduce((a, b) => k.add(a, b));
      return [loss, grads(loss, [leaf])[0]!];
    }, given);
    // Three products and their sums, two additions; the seed; three products, two of which take the additions in.
    expect(counts).toEqual({ eager: 14, compiled: 11 });
  });

  it("does not multiply by the seed of a gradient", async () => {
    const counts = await dispatches(
      (x, y) => {
        const leaf = x!.detach().requireGrad();
        return k.softmax(grads(k.sum(k.mul(leaf, y!)), [leaf])[0]!);
      },
      [filled([4, 64]), filled([4, 64], 2)],
    );
    expect(counts).toEqual({ eager: 5, compiled: 1 });
    // Other constants do count, and one may be what gives the result its shape.
    const filling = (value: number) => (x: Tensor | undefined) => k.softmax(k.mul(x!, full([3, 8], value)));
    expect(await dispatches(filling(3), [filled([8])])).toEqual({ eager: 3, compiled: 2 });
    expect(await dispatches(filling(1), [filled([8])])).toEqual({ eager: 3, compiled: 2 });
  });

  it("reads through views", async () => {
    const [x, y] = [filled([6, 8]), filled([8, 6], 2)];
    const turned = await dispatches((a, b) => k.mul(k.transpose(k.tanh(a!)), b!), [x, y]);
    expect(turned).toEqual({ eager: 2, compiled: 1 });
    const cut = await dispatches((a) => k.neg(k.slice(k.exp(a!), [1, 5, 2], [null, null, -1])), [x]);
    expect(cut).toEqual({ eager: 2, compiled: 1 });
    const rows = await dispatches((a) => k.add(k.neg(k.select(a!, 0, 1)), k.select(a!, 0, 2)), [x]);
    expect(rows).toEqual({ eager: 2, compiled: 1 });
    const skew = await dispatches(
      (a) => {
        const h = k.neg(a!);
        return k.sub(k.transpose(h), h);
      },
      [filled([8, 8])],
    );
    expect(skew).toEqual({ eager: 2, compiled: 1 });
    // In one line of memory, but not a line of either input.
    for (const turn of [(t: Tensor) => t, (t: Tensor) => k.flip(t, 0)]) {
      const lined = await dispatches(
        (a, b) => {
          const table = k.sub(k.narrow(a!, 0, 0, 1), k.narrow(b!, 1, 0, 1));
          return k.neg(turn(k.narrow(k.reshape(table, [64]), 0, 5, 9)));
        },
        [filled([8, 8]), filled([8, 8], 3)],
      );
      expect(lined).toEqual({ eager: 2, compiled: 2 });
    }
    const copied = await dispatches((a) => k.reshape(k.add(k.transpose(a!), 1), [4, 12]), [x]);
    expect(copied).toEqual({ eager: 1, compiled: 1 });
  });

  it("reads a copy where the original lies", async () => {
    const x = filled([4, 64]);
    expect(await dispatches((a) => k.sum(k.copy(a!), 1), [x])).toEqual({ eager: 2, compiled: 1 });
    // The row at 64 floats starts on 256 bytes, the one at 8 does not: kernels could not bind it.
    const row = (start: number) => (a: Tensor | undefined) => {
      const own = k.copy(k.narrow(k.reshape(a!, [256]), 0, start, 32));
      return [k.softmax(own), k.rmsNorm(own, k.narrow(a!, 1, 0, 32).asStrided([32], [1], 0), 1e-6)];
    };
    expect(await dispatches(row(64), [x])).toEqual({ eager: 3, compiled: 2 });
    expect(await dispatches(row(8), [x])).toEqual({ eager: 3, compiled: 3 });
    const turned = await dispatches((a) => k.softmax(k.copy(k.transpose(a!))), [x]);
    expect(turned).toEqual({ eager: 2, compiled: 2 });
  });

  it("computes again what is cheap, and keeps what is not", async () => {
    const [x, y] = [filled([160, 160]), filled([160, 160], 2)];
    const both = (f: (t: Tensor) => Tensor) => (a: Tensor | undefined, b: Tensor | undefined) => {
      const shared = f(a!);
      return [k.add(shared, b!), k.mul(shared, b!)];
    };
    expect(
      (
        await dispatches(
          both((t) => k.mul(t, 3)),
          [x, y],
        )
      ).compiled,
    ).toBe(2);
    expect((await dispatches(both(k.tanh), [x, y])).compiled).toBe(3);
    expect((await dispatches(both(k.tanh), [filled([40]), filled([40], 2)])).compiled).toBe(2);
    const wide = (a: Tensor | undefined, b: Tensor | undefined) => k.add(k.tanh(a!), b!);
    expect((await dispatches(wide, [filled([160]), y])).compiled).toBe(2);
    expect((await dispatches(wide, [filled([4]), filled([8, 4])])).compiled).toBe(1);
  });

  it("keeps results, what other ops read, and the rounding of f16", async () => {
    const x = filled([6, 8]);
    const live = await dispatches(
      (a) => {
        const h = k.exp(a!);
        return [h, k.add(h, 1)];
      },
      [x],
    );
    expect(live.compiled).toBe(2);
    const reduced = await dispatches(
      (a) => {
        const h = k.neg(a!);
        return [k.sum(h, 0), k.add(h, 1)];
      },
      [x],
    );
    expect(reduced.compiled).toBe(3);
    if (!gpu.profile.f16) return;
    const half = await dispatches((a) => k.mul(k.cast(k.mul(a!, 0.1), "f16"), 3), [x]);
    expect(half).toEqual({ eager: 3, compiled: 2 });
  });

  it("computes before an update in place what was asked before it", async () => {
    const state = persist(filled([5, 4]));
    const around = (change: (s: Tensor, t: Tensor) => void) => async (x: Tensor) => {
      state.write(new Array(20).fill(2));
      const step = (a: Tensor | undefined) => {
        const [doubled, copied] = [k.mul(state, 2), k.copy(state)];
        change(state, a!);
        k.addInto(state, k.copy(state));
        return [k.add(doubled, a!), k.softmax(copied), k.add(state, 1)];
      };
      const eager = await read(step(x));
      state.write(new Array(20).fill(2));
      const compiled = await read(compile(step)(x));
      expectSame(compiled, eager);
      const [sum, , after] = compiled.map((list) => list[0]) as [number, number, number];
      expect(sum).toBe(4 + (after - 1) / 2 - (change === k.addInto ? 2 : 0));
    };
    await around(k.addInto)(filled([5, 4], 3));
    await around(k.assignInto)(filled([5, 4], 3));
    dispose(state);
  });

  it("does not update the original of a copy", async () => {
    const counts = await dispatches(
      (x, y) => {
        const [own, doubled] = [k.copy(x!), k.add(x!, x!)];
        k.addInto(own, y!);
        k.addInto(doubled, own);
        return [k.add(x!, 1), k.add(doubled, 1)];
      },
      [filled([6, 4]), filled([6, 4], 2)],
    );
    expect(counts.compiled).toBe(counts.eager);
  });
});

/** One instruction of a random program; operands are counted modulo what exists. */
interface Instruction {
  op: string;
  a: number;
  b: number;
  live: boolean;
}

/** Multiples of 1/4 within [-2, 2]: products of them, and sums of those, need no rounding. */
const coarse = (t: Tensor) => k.mul(k.clamp(k.round(k.mul(t, 4)), -8, 8), 0.25);
const binary = {
  add: k.add,
  sub: k.sub,
  mul: (a: Tensor, b: Tensor) => k.mul(coarse(a), coarse(b)),
  maximum: k.maximum,
};
const unary = {
  tanh: (t: Tensor) => coarse(k.tanh(t)),
  sigmoid: (t: Tensor) => coarse(k.sigmoid(t)),
  neg: k.neg,
  relu: k.relu,
  copy: k.copy,
  half: (t: Tensor) => k.mul(coarse(t), 0.5),
  mask: (t: Tensor) => k.where(k.lt(t, 0.25), t, 1),
  narrow: (t: Tensor) => (gpu.profile.f16 ? k.cast(k.cast(k.add(coarse(t), 2051 / 1024), "f16"), "f32") : t),
  whole: (t: Tensor) => k.cast(k.add(k.cast(t, "i32"), 3), "f32"),
};
/** All keep a shape that broadcasts with the others: axes of extent n or 1. */
const views = {
  transpose: (t: Tensor) => (t.rank === 2 ? k.transpose(t) : t),
  flip: (t: Tensor) => (t.rank > 0 ? k.flip(t, -1) : t),
  first: (t: Tensor) => (t.rank > 0 ? k.narrow(t, 0, t.shape[0] - 1, 1) : t),
  // n elements in memory order that begin in one row and end in the next.
  across: (t: Tensor) =>
    t.rank === 2 && t.size > 8 ? k.narrow(k.reshape(t, [t.size]), 0, 2, t.shape[0]) : t,
  flat: (t: Tensor) => k.reshape(k.reshape(t, [t.size]), t.shape),
  turned: (t: Tensor) => k.reshape(k.reshape(k.transpose(k.unsqueeze(t, 0), 0, -1), [t.size]), t.shape),
};
const others = { rows: (t: Tensor) => k.sum(t, -1, true), softmax: (t: Tensor) => coarse(k.softmax(t)) };
const inPlace = ["add_into", "assign_into"];

const instruction: fc.Arbitrary<Instruction> = fc.record({
  op: fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...Object.keys(binary)) },
    { weight: 4, arbitrary: fc.constantFrom(...Object.keys(unary)) },
    { weight: 4, arbitrary: fc.constantFrom(...Object.keys(views)) },
    { weight: 1, arbitrary: fc.constantFrom(...Object.keys(others)) },
    { weight: 2, arbitrary: fc.constantFrom(...inPlace) },
  ),
  // Mostly what was made just before: chains are what is merged.
  a: fc.oneof(fc.constant(0), fc.nat(2), fc.nat(16)),
  b: fc.oneof(fc.nat(2), fc.nat(16)),
  live: fc.nat(5).map((n) => n === 0),
});

const unsigned = (list: readonly number[]) => list.map((v) => v + 0);

/** Runs a program on tensors that broadcast with each other; `states` are captured and updated in place. */
function interpret(program: readonly Instruction[], args: readonly Tensor[], states: readonly Tensor[]) {
  const values = [...args, ...states];
  const results: Tensor[] = [];
  for (const { op, a, b, live } of program) {
    const x = values[values.length - 1 - (a % values.length)];
    const y = values[values.length - 1 - (b % values.length)];
    if (inPlace.includes(op)) {
      const target = states[a % states.length];
      // A source in the target's own memory would be read while it is written.
      const source = k.expand(coarse(y), target.shape);
      (op === "add_into" ? k.addInto : k.assignInto)(target, k.contiguous(source));
      continue;
    }
    const f = { ...unary, ...views, ...others }[op];
    const made = f ? f(x) : binary[op as keyof typeof binary](x, y);
    values.push(made);
    if (live) results.push(made);
  }
  return [...results, ...values.slice(-2).map((t) => k.add(t, 0.5))];
}

describe("sums with a product", () => {
  const operands = () => [filled([6, 20], 1), filled([20, 8], 2), filled([6, 8], 3)];

  it("are stored by the product, through views and for several in a row", async () => {
    const one = await dispatches((a, b, c) => k.add(k.matmul(a!, b!), c!), operands());
    expect(one.eager - one.compiled).toBe(1);
    const seen = await dispatches(
      (a, b, c) => k.add(k.reshape(c!, [2, 3, 8]), k.reshape(k.matmul(a!, b!), [2, 3, 8])),
      operands(),
    );
    expect(seen.eager - seen.compiled).toBe(1);
    const chain = await dispatches(
      (a, b) => k.add(k.add(k.matmul(a!, b!), k.matmul(k.sin(a!), b!)), k.matmul(k.cos(a!), b!)),
      operands().slice(0, 2),
    );
    expect(chain.eager - chain.compiled).toBe(2);
  });

  it("stay where the product is read elsewhere, is a result, or the term is broadcast", async () => {
    const twice = (a: Tensor, b: Tensor, c: Tensor) => {
      const p = k.matmul(a, b);
      return [k.add(p, c), k.softmax(p, -1)];
    };
    const returned = (a: Tensor, b: Tensor, c: Tensor) => {
      const p = k.matmul(a, b);
      return [p, k.add(p, c)];
    };
    const row = (a: Tensor, b: Tensor, c: Tensor) => k.add(k.matmul(a, b), c.asStrided([8], [1], 0));
    for (const step of [twice, returned, row]) {
      const { eager, compiled } = await dispatches((a, b, c) => step(a!, b!, c!), operands());
      expect(compiled).toBe(eager);
    }
  });

  it("do not move a product behind an update of what it reads", async () => {
    const [a, b, c] = operands() as [Tensor, Tensor, Tensor];
    const weight = persist(filled([20, 8], 5));
    const before = await weight.data();
    const run = compile((x: Tensor) => {
      const p = k.matmul(x, weight);
      k.addInto(weight, b);
      return k.add(p, c);
    });
    const got = await scope(() => run(a)).data();
    weight.write(before);
    expectSame([Array.from(got)], await read([k.add(k.matmul(a, weight), c)]));
    dispose(weight);
  });
});

describe("any step", () => {
  it("gives eager's values and states, twice", async () => {
    const seen = { eager: 0, compiled: 0 };
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(4, 5),
        fc.array(instruction, { minLength: 3, maxLength: 12 }),
        async (n, program) => {
          const args = [filled([n, n]), filled([n], 2), filled([n, 1], 3), filled([1, n], 4)];
          const start = [filled([n, n], 5), filled([n, n], 6)];
          const [given, before] = [await read(start), persist(start)];
          const step = (...own: Tensor[]) => interpret(program, own, before);
          const run = async (body: typeof step) => {
            before.forEach((state, i) => {
              state.write(given[i]);
            });
            const list: number[][] = [];
            let count = 0;
            for (let time = 0; time < 2; time++) {
              const at = gpu.recorder.dispatches;
              const made = scope(() => body(...args));
              count = gpu.recorder.dispatches - at;
              list.push(...(await read(made)), ...(await read(before)));
            }
            return { list, count };
          };
          const eager = await run(step);
          const compiled = await run(compile(step));
          expect(compiled.list.map(unsigned)).toEqual(eager.list.map(unsigned));
          seen.eager += eager.count;
          seen.compiled += compiled.count;
          dispose([args, before]);
        },
      ),
      { numRuns: 25 },
    );
    // Merging must have happened, or nothing was tested.
    expect(seen.compiled).toBeLessThan(seen.eager);
  });
});
