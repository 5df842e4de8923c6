import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { type AnyOp, type DeviceProfile, findOp, type Sample, type SampleInput } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { emit, lower } from "../core/webgpu/lowering.ts";
import { backwardVariants, forwardVariants } from "../kernels/attention/plan.ts";
import { memoryOf, tuneTiles } from "../kernels/attention/tiles.ts";
import { openDevice } from "../kernels/index.ts";
import { complaints, gpuProfile, meta, nullDevice } from "./support/null_backend.ts";
import { place, runSample, sampleInputs, worstRatio } from "./support/ops_harness.ts";

/**
 * Attention in register tiles. The op suite runs every sample with the small tiles of software adapters; here run the
 * tiles that a GPU is given, as far as the adapter's workgroup memory goes, and Dawn validates those of every head.
 */
const reference = new ReferenceDevice();
let gpu: WebGpuDevice;
let own: DeviceProfile["class"];
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
  own = gpu.profile.class;
});
afterAll(() => setDevice(null));

/** Several blocks of queries and of keys, none of them full, and two heads that share a key head. */
function sampleOf(op: AnyOp, dim: number, causal: boolean): Sample<unknown> {
  const [heads, kvHeads, queries, keys] = [2, 1, 75, 70];
  const query: SampleInput = { shape: [1, heads, queries, dim], range: [-1, 1] };
  const key: SampleInput = { shape: [1, kvHeads, keys, dim], range: [-1, 1] };
  const result: SampleInput = { shape: [1, queries, heads, dim], range: [-1, 1] };
  const lse: SampleInput = { shape: [1, heads, queries], dtype: "f32", range: [2, 3] };
  const inputs = op.name === "attention" ? [query, key, key] : [result, query, key, key, result, lse];
  const attrs = { causal, scale: 0.2, masked: false, segmented: false, lseGrad: false };
  return { name: `${dim} ${causal}`, inputs, attrs };
}

/** Results of the variant `tiles` as an adapter of this class would be given it. */
async function onTiles(op: AnyOp, sample: Sample<unknown>, kind: DeviceProfile["class"], option?: string) {
  const inputs = sampleInputs(gpu, op, sample);
  const metas = op.infer(inputs, sample.attrs as never);
  const outputs = metas.map(({ shape, dtype }) =>
    place(gpu, { shape }, dtype, new Array(shape.reduce((a, b) => a * b, 1)).fill(Number.NaN)),
  );
  Object.assign(gpu.profile, { class: kind });
  try {
    const choice = { forced: "tiles", ...(option !== undefined && { option }) };
    emit(gpu, lower(gpu, op, inputs, sample.attrs, outputs, choice), op, inputs, sample.attrs, outputs);
  } finally {
    Object.assign(gpu.profile, { class: own });
  }
  return Promise.all(outputs.map(async (t) => Array.from(await t.data())));
}

async function compare(op: AnyOp, sample: Sample<unknown>, found: number[][]): Promise<void> {
  const expected = await runSample(reference, op, sampleInputs(reference, op, sample), sample.attrs);
  expected.forEach((values, i) => {
    expect(worstRatio(found[i], values, 2e-6, 1e-5), `result ${i}`).toBeLessThanOrEqual(1);
  });
}

for (const name of ["attention", "attention_backward"]) {
  const op = findOp(name);
  describe(`${name} in register tiles`, () => {
    it("is right where heads do not divide by the threads of a row", async () => {
      for (const causal of [true, false]) {
        const sample = sampleOf(op, 12, causal);
        await compare(op, sample, await onTiles(op, sample, "cpu"));
      }
    });

    it("is right in the tiles of a GPU, heads of 64", async () => {
      for (const causal of [true, false]) {
        const sample = sampleOf(op, 64, causal);
        await compare(op, sample, await onTiles(op, sample, "gpu"));
      }
    });

    it("gives the same bits in any tile that may be measured", async () => {
      const sample = sampleOf(op, 4, true);
      const options = name === "attention" ? ["64 by 8", "32 by 4"] : ["64 by 8", "16 by 4"];
      const found = [];
      for (const option of options) found.push(await onTiles(op, sample, "gpu", option));
      await compare(op, sample, found[0]);
      expect(found[1]).toEqual(found[0]);
    });
  });
}

/** The call of each op with heads of one dimension. */
function callsOf(profile: DeviceProfile, dim: number, dtype: "f16" | "f32") {
  const [query, key, out] = [
    [1, 2, 70, dim],
    [1, 2, 70, dim],
    [1, 70, 2, dim],
  ].map((s) => meta(s, dtype));
  const lse = meta([1, 2, 70], "f32");
  const attrs = { causal: true, scale: 0.1, masked: false, segmented: false, lseGrad: false };
  return [
    { profile, inputs: [query!, key!, key!], outputs: [out!, lse], attrs },
    { profile, inputs: [out!, query!, key!, key!, out!, lse], outputs: [out!, out!, out!], attrs },
  ] as const;
}

describe("Dawn takes register tiles", () => {
  for (const kibibytes of [32, 48, 64]) {
    it(`of every head in ${kibibytes} KiB of workgroup memory`, async () => {
      const validator = await nullDevice();
      const profile = gpuProfile(null, { maxWorkgroupMemory: kibibytes * 1024 });
      for (const dim of [4, 20, 32, 48, 64, 80, 96, 128]) {
        const [forward, backward] = callsOf(profile, dim, dim === 48 ? "f16" : "f32");
        const front = forwardVariants.find((v) => v.when!(forward))!;
        const back = backwardVariants.find((v) => v.when!(backward))!;
        expect([front.name, back.name], `heads of ${dim}`).toEqual(["tiles", "tiles"]);
        for (const option of tuneTiles(forward, "forward").options) {
          const plan = front.plan(forward, option);
          expect(
            await complaints(validator, profile, front.file, plan, forward.inputs, forward.outputs),
          ).toEqual([]);
        }
        for (const option of tuneTiles(backward, "dkv").options) {
          const plan = back.plan(backward, option);
          expect(
            await complaints(validator, profile, back.file, plan, backward.inputs, backward.outputs),
          ).toEqual([]);
        }
      }
    });
  }

  it("counts workgroup memory as Dawn does", async () => {
    const validator = await nullDevice();
    const tile = { rows: 64, each: 8, columns: 8 };
    const bytes = memoryOf(tile, 64, "forward");
    const [large, short] = [gpuProfile(null), gpuProfile(null, { maxWorkgroupMemory: bytes - 1 })];
    const [forward] = callsOf(large, 64, "f32");
    const plan = forwardVariants.find((v) => v.name === "tiles")!.plan(forward);
    const exact = { ...large, maxWorkgroupMemory: bytes };
    const judge = (profile: DeviceProfile) =>
      complaints(validator, profile, "attention/tiles.wgsl", plan, forward.inputs, forward.outputs);
    expect(await judge(exact)).toEqual([]);
    expect(await judge(short)).not.toEqual([]);
  });
});
