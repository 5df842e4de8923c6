import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { grads } from "../core/autograd.ts";
import { type Device, setDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { registeredOps, type Sample } from "../core/op.ts";
import { contiguousStrides, numel, type Shape } from "../core/shape.ts";
import { ones, Tensor, tensor, zeros } from "../core/tensor.ts";
import { lostError, type WebGpuDevice } from "../core/webgpu/device.ts";
import * as k from "../kernels/index.ts";
import { runSample, sampleInputs, worstRatio } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
let reference: Device;
beforeAll(async () => {
  reference = k.openReference();
  gpu = await k.openDevice();
});
afterAll(() => setDevice(null));

const list = async (t: Tensor) => Array.from(await t.data());
const wave = (shape: Shape) =>
  tensor(
    Array.from({ length: numel(shape) }, (_, i) => Math.fround(Math.sin(i))),
    shape,
  );

/** The same on the adapter as on the reference, to f32. */
async function agrees(label: string, body: () => Tensor | readonly Tensor[]): Promise<void> {
  const results: { shape: Shape; data: ArrayLike<number> }[][] = [];
  for (const on of [reference, gpu]) {
    setDevice(on);
    const made = [body()].flat() as Tensor[];
    results.push(await Promise.all(made.map(async (t) => ({ shape: t.shape, data: await t.data() }))));
  }
  results[0].forEach((right, i) => {
    expect(results[1][i].shape, label).toEqual(right.shape);
    expect(worstRatio(results[1][i].data, right.data, 1e-5, 1e-4), label).toBeLessThanOrEqual(1);
  });
}

describe("ranks", () => {
  it("of 0 are what one element is", async () => {
    const scalar = () => tensor(0.5);
    const cases: Record<string, () => Tensor | readonly Tensor[]> = {
      softmax: () => k.softmax(scalar()),
      "log softmax": () => k.logSoftmax(scalar(), 0),
      cumsum: () => k.cumsum(scalar(), -1),
      sort: () => Object.values(k.sort(scalar())),
      topk: () => Object.values(k.topk(scalar(), 1)),
      argmax: () => [k.argmax(scalar(), 0), k.argmin(scalar(), -1, true), k.argmax(scalar())],
      reductions: () => [
        k.sum(scalar()),
        k.mean(scalar(), 0),
        k.amax(scalar(), -1, true),
        k.logsumexp(scalar()),
      ],
      variance: () => k.variance(scalar(), null, 0),
      views: () => [
        k.flip(scalar(), []),
        k.flatten(scalar()),
        k.expand(scalar(), [2, 3]),
        k.unsqueeze(scalar(), 0),
      ],
      "a gradient": () => {
        const x = scalar().requireGrad();
        return grads(k.mul(k.softmax(x), x), [x]) as Tensor[];
      },
    };
    for (const [label, body] of Object.entries(cases)) await agrees(label, body);
    expect(await list(k.softmax(tensor(3)))).toEqual([1]);
    setDevice(gpu);
    const x = scalar();
    const refused = [
      () => k.split(x, 1),
      () => k.narrow(x, 0, 0, 1),
      () => k.select(x, 0, 0),
      () => k.cat([x, x]),
      () => k.tril(x),
      () => k.layerNorm(x, x, x),
      () => k.matmul(x, x),
      () => k.transpose(x),
      () => k.softmax(x, 1),
      () => k.gather(x, 0, tensor([0], [1], "i32")),
      () => k.embedding(tensor(0, [], "i32"), x),
      () => k.attention(x, x, x),
    ];
    for (const call of refused) expect(call).toThrow(KilnError);
  });

  it("over 8 are copied, computed, reduced, padded and multiplied", async () => {
    const shape = [2, 1, 3, 2, 1, 2, 2, 1, 3, 2, 2];
    const order = [10, 3, 8, 0, 5, 2, 9, 6, 1, 4, 7];
    const turned = () => k.permute(wave(shape), order);
    const cases: Record<string, () => Tensor | readonly Tensor[]> = {
      copy: () => k.copy(turned()),
      add: () => k.add(turned(), wave(order.map((axis) => shape[axis]))),
      fused: () => k.mul(k.sin(turned()), 2),
      sum: () => [k.sum(turned(), [0, 3, 7]), k.sum(turned()), k.amax(turned(), [1, 4, 9])],
      softmax: () => k.softmax(turned(), 2),
      cumsum: () => k.cumsum(turned(), 5),
      sort: () => k.sort(turned(), 2).values,
      reshape: () => k.reshape(turned(), [-1, 6]),
      pad: () => k.pad(turned(), [1, 0, 0, 1]),
      slice: () => {
        const x = wave(shape).requireGrad();
        const view = k.flip(k.permute(x, order), [0, 2, 6]);
        return grads(k.sum(k.mul(view, turned())), [x]) as Tensor[];
      },
      matmul: () =>
        k.matmul(
          k.permute(wave([2, 3, 2, 2, 3, 2, 2, 2, 2, 2, 4]), [8, 1, 6, 3, 4, 5, 2, 7, 0, 9, 10]),
          wave([4, 3]),
        ),
      "batches of both": () => {
        const batch = [2, 2, 2, 2, 2, 2, 2, 2, 2];
        const across = [8, 0, 7, 1, 6, 2, 5, 3, 4];
        const a = k.permute(wave([...batch, 3, 4]), [...across, 9, 10]);
        return k.matmul(a, wave([...batch, 4, 2]));
      },
    };
    for (const [label, body] of Object.entries(cases)) await agrees(label, body);
  });

  it("may be as many as one likes where one reads across them", async () => {
    setDevice(gpu);
    const rank = 20;
    const memory = wave([2 ** rank]);
    const shape = new Array<number>(rank).fill(2);
    const t = new Tensor(memory.storage, shape, contiguousStrides(shape).reverse());
    const values = await memory.data();
    const reversed = (i: number) =>
      Number.parseInt(i.toString(2).padStart(rank, "0").split("").reverse().join(""), 2);
    const got = await t.data();
    for (let i = 0; i < got.length; i += 997) expect(got[i]).toBe(values[reversed(i)]);
  });
});

/** The sample with the most elements. */
function largest(samples: Sample<unknown>[]): Sample<unknown> {
  const sizes = samples.map(({ inputs }) => inputs.reduce((sum, { shape }) => sum + numel(shape), 0));
  return samples[sizes.indexOf(Math.max(...sizes))];
}

describe("grids", () => {
  it("fold where an adapter takes few workgroups along an axis: every op gives its results", async () => {
    setDevice(gpu);
    const profile = gpu.profile as { maxGridExtent: number };
    const { maxGridExtent } = profile;
    profile.maxGridExtent = 16;
    gpu.forgetLowered();
    const refused: string[] = [];
    try {
      for (const op of registeredOps().values()) {
        for (const sample of [largest(op.samples() as unknown as Sample<unknown>[])]) {
          const right = await runSample(reference, op, sampleInputs(reference, op, sample), sample.attrs);
          try {
            const got = await runSample(gpu, op, sampleInputs(gpu, op, sample), sample.attrs);
            got.forEach((values, i) => {
              const { atol = 1e-5, rtol = 1e-4 } = sample;
              expect(
                worstRatio(values, right[i], atol, rtol),
                `${op.name}: ${sample.name}`,
              ).toBeLessThanOrEqual(1);
            });
          } catch (error) {
            if (!(error instanceof KilnError)) throw error;
            refused.push(op.name);
          }
        }
      }
    } finally {
      profile.maxGridExtent = maxGridExtent;
      gpu.forgetLowered();
    }
    // Batches, heads and blocks of rows are the axes of attention's grids; `attention` cuts batches into parts.
    expect([...new Set(refused)].filter((name) => !/^attention/.test(name))).toEqual([]);
  }, 240_000);

  it("of attention hold any number of batches, with masks, segments and gradients", async () => {
    const batches = 10;
    for (const variant of ["rows", "masked", "segments"] as const) {
      await agrees(variant, () => {
        const profile = gpu.profile as { maxGridExtent: number };
        const { maxGridExtent } = profile;
        profile.maxGridExtent = 4;
        try {
          const [q, key, v] = [4, 2, 2].map((heads) => wave([batches, heads, 3, 4]).requireGrad()) as [
            Tensor,
            Tensor,
            Tensor,
          ];
          const mask = tensor(
            Array.from({ length: batches * 3 }, (_, i) => Number(i % 3 !== 1)),
            [batches, 1, 1, 3],
            "bool",
          );
          const segments = tensor(
            Array.from({ length: batches * 3 }, (_, i) => Number(i % 3 === 2)),
            [batches, 3],
            "i32",
          );
          const options = { rows: { causal: true }, masked: { mask }, segments: { segments } }[variant];
          const out = k.attention(q, key, v, options);
          return [out, ...(grads(k.sum(k.mul(out, wave(out.shape))), [q, key, v]) as Tensor[])];
        } finally {
          profile.maxGridExtent = maxGridExtent;
        }
      });
    }
  });

  it("of attention hold 70,000 batches", async () => {
    setDevice(gpu);
    const x = wave([70_000, 1, 1, 4]);
    const out = k.attention(x, x, x);
    expect(out.shape).toEqual([70_000, 1, 1, 4]);
    expect((await list(k.narrow(out, 0, 69_999, 1))).map(Math.fround)).toEqual(
      await list(k.narrow(x, 0, 69_999, 1)),
    );
  });
});

describe("extents of 0", () => {
  it("give empty results, or those of nothing", async () => {
    const none = () => zeros([0, 4]);
    const cases: Record<string, () => Tensor | readonly Tensor[]> = {
      elementwise: () => [k.add(none(), 1), k.copy(k.transpose(none())), k.where(k.gt(none(), 0), none(), 2)],
      reductions: () => [
        k.sum(none(), 0),
        k.sum(none(), 1),
        k.prod(none(), 0),
        k.mean(none(), 1),
        k.cumsum(none(), 0),
      ],
      "of all": () => [k.sum(none()), k.amax(none(), 1)],
      rows: () => [k.softmax(none()), k.logSoftmax(zeros([3, 0])), k.layerNorm(none(), ones([4]), ones([4]))],
      order: () => [k.sort(none()).indices, k.topk(zeros([3, 0]), 0).values, k.argmax(none(), 1)],
      shapes: () => [
        k.cat([none(), ones([2, 4])]),
        k.pad(none(), [0, 0, 1, 1], 3),
        k.reshape(none(), [4, 0, 7]),
      ],
      matmul: () => [
        k.matmul(none(), ones([4, 3])),
        k.matmul(zeros([3, 0]), zeros([0, 2])),
        k.matmul(ones([2, 3]), zeros([3, 0])),
      ],
      attention: () => [k.attention(zeros([0, 1, 3, 4]), zeros([0, 1, 3, 4]), zeros([0, 1, 3, 4]))],
      "no queries": () => k.attention(zeros([1, 1, 0, 4]), ones([1, 1, 3, 4]), ones([1, 1, 3, 4])),
      "no keys": () => k.attention(ones([1, 2, 3, 4]), zeros([1, 2, 0, 4]), zeros([1, 2, 0, 4])),
      embedding: () => [
        k.embedding(tensor([], [0], "i32"), ones([3, 4])),
        k.embedding(tensor([0], [1], "i32"), zeros([3, 0])),
      ],
      loss: () => k.crossEntropy(none(), tensor([], [0], "i32"), { reduction: "none" }),
      gradient: () => {
        const [x, w] = [zeros([0, 3]).requireGrad(), ones([3, 2]).requireGrad()];
        return grads(k.sum(k.matmul(x, w)), [x, w]) as Tensor[];
      },
    };
    for (const [label, body] of Object.entries(cases)) await agrees(label, body);
    setDevice(gpu);
    for (const call of [
      () => k.argmax(none(), 0),
      () => k.argmin(zeros([0])),
      () => k.layerNorm(zeros([3, 0]), zeros([0]), zeros([0])),
    ])
      expect(call).toThrow(KilnError);
  });
});

describe("what stops everything", () => {
  it("f16 where the adapter has none, and what is no list or dtype, are refused by name", () => {
    setDevice(gpu);
    if (!gpu.profile.f16) {
      for (const call of [
        () => tensor([1], [1], "f16"),
        () => zeros([1], "f16"),
        () => k.cast(tensor([1]), "f16"),
      ])
        expect(call).toThrow("f16 tensors need an adapter with shader-f16");
    }
    expect(() => k.cast(tensor([1]), "float32" as never)).toThrow(
      'cast: a dtype is f32, f16, i32, u32 or bool, not "float32"',
    );
    expect(() => k.reshape(tensor([1]), undefined as never)).toThrow(
      "reshape: expected a list of extents, got undefined",
    );
    expect(() => k.sum(tensor([1]), "0" as never)).toThrow('sum: expected a list of axes, got "0"');
    expect(() => k.cat(tensor([1]) as never)).toThrow(
      "cat: expected a list of tensors, got an object (Tensor)",
    );
    expect(() => k.matmul(tensor([1]), 3 as never)).toThrow("matmul: expected a tensor, got 3");
  });

  it("is said in words, also where the driver says none", () => {
    expect(lostError("unknown", "").message).toMatch(
      /^the GPU device was lost: the driver gave no reason; .*start again/,
    );
    expect(lostError("unknown", "VK_ERROR_DEVICE_LOST ").message).toContain(
      "lost: VK_ERROR_DEVICE_LOST; its memory",
    );
    expect(lostError("destroyed", "x").code).toBe("device_lost");
  });

  it("a tensor that no buffer holds, and one of a closed device, are one KilnError", async () => {
    setDevice(gpu);
    expect(() => zeros([2 ** 31])).toThrow(/is over this adapter's limit of .* a buffer/);
    expect(() => zeros([65_536, 65_536])).toThrow(
      "zeros: [65536, 65536] has more elements than 32 bits can count",
    );
    await expect(k.expand(tensor([1]), [2 ** 31]).data()).rejects.toThrow(KilnError);
    const other = await k.openDevice();
    const x = tensor([1, 2]);
    other.close();
    await expect(x.data()).rejects.toThrow(KilnError);
    setDevice(gpu);
    expect(await list(k.add(tensor([1]), 1))).toEqual([2]);
  });
});
