import { afterAll, beforeAll, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { philox4x32, toUnit } from "../core/random.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { dispose } from "../core/scope.ts";
import { full, type Tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { createModel } from "../models/architectures.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { Conv1D, Embedding, LayerNorm, Linear, manualSeed, RmsNorm } from "../nn/index.ts";

// A new layer holds what its class says, whatever the memory held before.
let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

const values = async (t: Tensor) => Array.from(await t.data());
const uniform = (drawn: number, count: number, bound: number) =>
  Array.from({ length: count }, (_, i) => {
    const word = philox4x32([11, 0], [i >>> 2, 0, drawn, 0])[i % 4];
    return (toUnit(word) - 0.5) * 2 * bound;
  });

it.each(["webgpu", "reference"])(
  "a Linear layer on %s is uniform in +-1 / sqrt(in_features), by seed and number of the draw",
  async (kind) => {
    const before = setDevice(kind === "webgpu" ? gpu : new ReferenceDevice());
    try {
      dispose(full([16, 8], 7));
      manualSeed(11);
      const [first, second] = [new Linear(8, 16, { bias: false }), new Linear(16, 6)];
      for (const [t, drawn, bound] of [
        [first.weight, 0, 8 ** -0.5],
        [second.weight, 1, 0.25],
        [second.bias!, 2, 0.25],
      ] as const) {
        const expected = uniform(drawn, t.size, bound);
        expect(t.requiresGrad).toBe(true);
        (await values(t)).forEach((v, i) => {
          expect(v).toBeCloseTo(expected[i], 7);
        });
      }
      const again = await values(new Linear(8, 16, { bias: false }).weight);
      manualSeed(11);
      expect(await values(new Linear(8, 16, { bias: false }).weight)).toEqual(await values(first.weight));
      expect(again).not.toEqual(await values(first.weight));
    } finally {
      setDevice(before);
    }
  },
);

it("embeddings and GPT-2's projections are normal, norms start as identities", async () => {
  manualSeed(3);
  const normal = async (t: Tensor, std: number) => {
    const list = await values(t);
    const mean = list.reduce((a, b) => a + b) / list.length;
    const deviation = Math.sqrt(list.reduce((sum, v) => sum + (v - mean) ** 2, 0) / list.length);
    // Three standard errors of 12,800 values.
    expect(Math.abs(mean)).toBeLessThan(0.027 * std);
    expect(Math.abs(deviation / std - 1)).toBeLessThan(0.02);
    expect(new Set(list).size).toBeGreaterThan(12_700);
  };
  await normal(new Embedding(200, 64).weight, 1);
  const conv = new Conv1D(64, 200);
  await normal(conv.weight, 0.02);
  const norm = new LayerNorm(5, 1e-5);
  expect(await values(conv.bias)).toEqual(new Array(200).fill(0));
  expect(await values(norm.weight)).toEqual([1, 1, 1, 1, 1]);
  expect(await values(norm.bias)).toEqual([0, 0, 0, 0, 0]);
  expect(await values(new RmsNorm(3, 1e-5).weight)).toEqual([1, 1, 1]);
});

it("a model to be loaded draws nothing, and one that is not holds no memory of others", async () => {
  const config = tinyllmConfig({
    vocab_size: 40,
    hidden_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  });
  const { dispatches } = gpu.recorder;
  const room = createModel(config);
  expect(gpu.recorder.dispatches).toBe(dispatches);
  dispose(room.parameters());
  for (const [name, parameter] of new LlamaForCausalLM(config).namedParameters()) {
    expect(
      (await values(parameter)).every((v) => Math.abs(v) < 6),
      name,
    ).toBe(true);
  }
});
