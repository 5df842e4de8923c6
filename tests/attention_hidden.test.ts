import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { grads } from "../core/autograd.ts";
import { setDevice, withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { attention, openDevice } from "../kernels/index.ts";
import { generator, worstRatio } from "./support/ops_harness.ts";

const reference = new ReferenceDevice();
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

const [T, D] = [8, 8];
const next = generator("hidden keys");
const random = () => Array.from({ length: T * D }, () => next() * 2 - 1);
const [query, key, value, cotangent] = [random(), random(), random(), random()];

interface Hiding {
  /** Rows whose results are looked at: what is hidden is so from all of them, perhaps not from others. */
  rows: number;
  hidden: number[];
  causal?: boolean;
  segments?: number[];
  mask?: number[];
  maskRows?: number;
}
const pairs = Array.from({ length: T * T }, (_, e) => (Math.floor(e / T) < 4 ? e % T < 4 : e % T > 1));
const hidings: Record<string, Hiding> = {
  "a key mask": { rows: 8, hidden: [2, 7], mask: [1, 1, 0, 1, 1, 1, 1, 0], maskRows: 1 },
  "a pair mask": { rows: 4, hidden: [4, 5, 6, 7], mask: pairs.map(Number), maskRows: T },
  "causal order": { rows: 4, hidden: [4, 5, 6, 7], causal: true },
  segments: { rows: 4, hidden: [4, 5, 6, 7], segments: [0, 0, 0, 0, 1, 1, 1, 1] },
};

/** Result, dq, and where no row sees the hidden keys dk and dv, with `junk` in those keys and values. */
async function attended(hiding: Hiding, junk: number): Promise<number[][]> {
  const { rows, hidden, causal, segments, mask, maskRows } = hiding;
  const spoilt = (x: number[]) => x.map((y, e) => (hidden.includes(Math.floor(e / D)) ? junk : y));
  const inputs = [query, spoilt(key), spoilt(value)].map((x) => tensor(x, [1, 1, T, D]).requireGrad());
  const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
  const out = attention(q, k, v, {
    causal,
    mask: mask && tensor(mask, [1, 1, maskRows!, T], "bool"),
    segments: segments && tensor(segments, [1, T], "i32"),
  });
  const wanted = cotangent.map((y, e) => (e < rows * D ? y : 0));
  const [dq, dk, dv] = grads(out, inputs, { cotangents: [tensor(wanted, [1, 1, T, D])] });
  const looked = rows === T ? [out, dq!, dk!, dv!] : [out, dq!];
  return Promise.all(looked.map(async (t) => Array.from(await t.data()).slice(0, rows * D)));
}

describe("attention's hidden keys", () => {
  for (const [kind, hiding] of Object.entries(hidings)) {
    for (const variant of ["plain", "lanes", "tiles"]) {
      for (const junk of [Number.NaN, Number.POSITIVE_INFINITY]) {
        it(`${variant}: hidden by ${kind} they contribute nothing, though they hold ${junk}`, async (context) => {
          const expected = await withDevice(reference, () => attended(hiding, 0));
          for (const name of ["attention", "attention_backward"]) gpu.forcedVariant.set(name, variant);
          onTestFinished(() => gpu.forcedVariant.clear());
          const found = await attended(hiding, junk).catch((error: Error) => error);
          if (found instanceof Error) {
            expect(found.message).toContain("no kernel variant can run this call");
            return context.skip(`${variant} does not run on ${gpu.profile.name}`);
          }
          expect(expected.flat().every(Number.isFinite)).toBe(true);
          for (const [i, values] of expected.entries())
            expect(worstRatio(found[i], values, 5e-6, 1e-5), `result ${i}`).toBeLessThanOrEqual(1);
        });
      }
    }
  }

  for (const [score, expected] of [
    [Number.NEGATIVE_INFINITY, 0],
    [Number.POSITIVE_INFINITY, Number.NaN],
    [Number.NaN, Number.NaN],
  ] as const) {
    it(`a row of nothing but scores of ${score} is ${expected} in every variant and the reference`, async () => {
      const run = async () => {
        const [q, k, v] = [new Array(T * D).fill(1), new Array(T * D).fill(score), value].map((x) =>
          tensor(x, [1, 1, T, D]),
        );
        return Array.from(await attention(q!, k!, v!).data());
      };
      const rows = new Array(T * D).fill(expected);
      expect(await withDevice(reference, run)).toEqual(rows);
      onTestFinished(() => gpu.forcedVariant.clear());
      for (const variant of ["plain", "lanes", "tiles"]) {
        gpu.forcedVariant.set("attention", variant);
        const found = await run().catch((error: Error) => error);
        if (found instanceof Error) expect(found.message).toContain("no kernel variant can run this call");
        else expect(found, variant).toEqual(rows);
      }
    });
  }
});
