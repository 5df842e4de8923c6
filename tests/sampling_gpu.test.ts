import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { scope } from "../core/scope.ts";
import { tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import {
  drawToken,
  keptWeights,
  openDevice,
  SETTINGS_WIDTH,
  sampleTokens,
  settingsRow,
} from "../kernels/index.ts";
import { softmax, warp } from "../models/sampling.ts";
import { drawAlike, onDevice, settings } from "./support/drawn_rows.ts";

/** One sampler on host and device: the same token of the same bits, and the distribution that transformers' words mean. */
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = (await openDevice()) as WebGpuDevice;
});

describe("sample_tokens", () => {
  it.for(["subgroup", "thread", "workgroup"])(
    "draws on the device what the host draws, of any rows and settings (%s)",
    async (variant, { skip }) => {
      if (variant === "subgroup" && gpu.profile.subgroupSize === 0) skip("no subgroups of one size");
      if (variant === "thread" && gpu.profile.class === "gpu") skip("no GPU is given a row a thread");
      // 10,000 rows with the variant that serves, fewer with the others: all of these in sampling_gpu.slow.test.ts.
      await drawAlike(gpu, variant, variant === "subgroup" ? 200 : 20);
    },
  );

  it("weighs a token as the host does, to the last bit", async () => {
    const random = (i: number) => ((Math.imul(i + 1, 0x9e3779b1) >>> 0) / 2 ** 32) ** 2;
    const probes = Array.from({ length: 400 }, (_, i) => {
      const row = Float32Array.from([12.5, 12.5 - 5 * random(i)]);
      const params = {
        temperature: 0.7 + random(i * 7),
        topK: 0,
        topP: 1,
        minP: 0,
        seed: [i, 1] as const,
        choice: 0,
      };
      // A position at which the second token is drawn if it is kept.
      let position = 0;
      while (drawToken(row, settingsRow({ ...params, position })) !== 1) position++;
      const words = settingsRow({ ...params, position });
      const [, weight] = keptWeights(row, words).weights;
      // The fifth word is the least weight that is kept.
      return { row, kept: words.with(4, weight), removed: words.with(4, weight + 1) };
    });
    const logits = tensor(Float32Array.from(probes.flatMap(({ row }) => [...row])), [probes.length, 2]);
    const idsOf = async (each: number[][]) => {
      const ids = scope(() =>
        sampleTokens(logits, tensor(each.flat(), [each.length, SETTINGS_WIDTH], "i32")),
      );
      return [...new Set(await ids.data())];
    };
    expect(await idsOf(probes.map(({ kept }) => kept))).toEqual([1]);
    expect(await idsOf(probes.map(({ removed }) => removed))).toEqual([0]);
  });

  it("draws each token as often as transformers' probabilities say (chi-squared, p > 1e-4)", async () => {
    const row = Float32Array.from({ length: 40 }, (_, i) => 3 * Math.sin(i * 1.7));
    const params = { temperature: 0.8, topK: 20, topP: 0.95, minP: 0.01 };
    const probs = softmax(warp(new Float64Array(row), params));
    const draws = 20_000;
    const each = Array.from({ length: draws }, (_, position) => ({
      ...params,
      seed: [99, 1] as const,
      choice: 0,
      position,
    }));
    const counts = new Array<number>(40).fill(0);
    for (const id of await onDevice(
      each.map(() => row),
      each,
    ))
      counts[id]++;
    let chi = 0;
    let kept = 0;
    probs.forEach((p, id) => {
      if (p === 0) expect(counts[id]).toBe(0);
      else {
        chi += (counts[id] - draws * p) ** 2 / (draws * p);
        kept++;
      }
    });
    expect(kept).toBe(14);
    // 13 degrees of freedom: the point of p = 1e-4.
    expect(chi).toBeLessThan(40.9);
  });
});

describe("whole weights", () => {
  it("are those of float64 to 1e-6, of tokens that top-k, top-p and min-p keep in float64", () => {
    const width = 200;
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -12, max: 12, noNaN: true }), { minLength: width, maxLength: width }),
        settings.filter(({ temperature, topK }) => temperature >= 0.3 && topK < width),
        (values, one) => {
          const row = Float32Array.from(values);
          const { weights, total } = keptWeights(row, settingsRow(one));
          const { temperature, topP, minP } = one;
          const all = softmax(warp(new Float64Array(row), { temperature, topK: one.topK, topP: 1, minP: 0 }));
          // Most likely first, lower ids first among equals: what is kept is the beginning.
          const order = [...all.keys()].sort((a, b) => row[b] - row[a] || a - b);
          const count = weights.filter((weight) => weight > 0).length;
          const kept = order.slice(0, count);
          expect(kept.every((id) => weights[id] > 0)).toBe(true);
          const mass = kept.reduce((sum, id) => sum + all[id], 0);
          for (const id of kept) expect(Math.abs(weights[id] / total - all[id] / mass)).toBeLessThan(1e-6);
          // Where a bound falls on a token to within the rounding, either is right.
          const [last, next] = [all[kept[count - 1]], all[order[count]] ?? 0];
          expect(mass - last).toBeLessThan(topP + 1e-6);
          expect(last).toBeGreaterThan(all[order[0]] * (minP - 1e-6));
          const isEnough = topP < 1 && mass > topP - 1e-6;
          expect(isEnough || next < all[order[0]] * (minP + 1e-6)).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("of one distance are equal wherever the row lies, and fall with the logit", () => {
    const one = settingsRow({
      temperature: 0.9,
      topK: 0,
      topP: 1,
      minP: 0,
      seed: [1, 2],
      choice: 0,
      position: 0,
    });
    const row = (offset: number) => Float32Array.from({ length: 60 }, (_, i) => offset - i / 4);
    const { weights } = keptWeights(row(0), one);
    for (const offset of [-64, 32, 100, 4000]) expect(keptWeights(row(offset), one).weights).toEqual(weights);
    const fine = Float32Array.from({ length: 100_000 }, (_, i) => -i / 5000);
    const falling = keptWeights(fine, one).weights;
    for (let i = 1; i < falling.length; i++)
      if (falling[i] > falling[i - 1]) throw new Error(`weight ${i} rises`);
    expect([falling[0], falling[1] < falling[0]]).toEqual([2 ** 27, true]);
  });
});
