import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice, withDevice } from "../core/device.ts";
import type { AnyOp } from "../core/op.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { type FusedLinearAttrs, inputNames } from "../kernels/fused_linear/inputs.ts";
import { fusedLinearOp, fusedQkvOp, narrow, openDevice, suitsFusion } from "../kernels/index.ts";
import type { CausalLM } from "../models/decoder.ts";
import { GPT2LMHeadModel } from "../models/gpt2.ts";
import { parseGpt2Config } from "../models/gpt2_config.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { runSample, sampleInputs, worstRatio } from "./support/ops_harness.ts";

let gpu: WebGpuDevice;
beforeAll(async () => {
  gpu = await openDevice();
  gpu.poison = true;
});
afterAll(() => setDevice(null));

const llama = (layers: number) =>
  new LlamaForCausalLM(
    tinyllmConfig({
      vocab_size: 300,
      num_hidden_layers: layers,
      num_key_value_heads: 2,
      initializer_range: 0.2,
    }),
  ).init(1);
const gpt2 = (layers: number, n_embd = 64) =>
  new GPT2LMHeadModel(
    parseGpt2Config({
      model_type: "gpt2",
      vocab_size: 301,
      n_embd,
      n_layer: layers,
      n_head: 4,
      n_positions: 64,
      initializer_range: 0.2,
      bos_token_id: null,
      eos_token_id: null,
    }),
  ).init(2);
const models: [string, (layers: number) => CausalLM][] = [
  ["llama", llama],
  ["gpt2", gpt2],
];

const decoderOf = (model: CausalLM) =>
  new PagedDecoder(model, { numBlocks: 16, blockSize: 16, maxSequences: 4, maxBlocksPerSequence: 4 });

/** Besides these, one that no fused attention takes: heads of 11. */
const allModels: typeof models = [...models, ["gpt2 with odd heads", (layers) => gpt2(layers, 44)]];

/** Dispatches of a step that decodes one token. */
async function dispatchesOfStep(model: CausalLM): Promise<number> {
  const decoder = decoderOf(model);
  const step = () => decoder.greedy([{ tokens: [7], start: 0, blockTable: [3], rows: [0] }]);
  await step();
  const before = gpu.recorder.dispatches;
  await step();
  decoder.close();
  return gpu.recorder.dispatches - before;
}

describe.each(models)("a decode step of %s", (_, make) => {
  it("takes five dispatches a layer, and three or four besides", async () => {
    const [two, four] = [await dispatchesOfStep(make(2)), await dispatchesOfStep(make(4))];
    expect(four - two).toBe(2 * 5);
    expect(two - 2 * 5).toBeLessThanOrEqual(5);
  });

  it("is rehearsed with one layer's dispatches at most, and then answers without a new kernel", async () => {
    const rehearsalOf = async (layers: number) => {
      const own = await openDevice();
      return withDevice(own, async () => {
        const decoder = decoderOf(make(layers));
        const before = own.recorder.dispatches;
        decoder.rehearse([4, 1], null);
        await own.sync();
        const dispatches = own.recorder.dispatches - before;
        const kernels = own.pipelines.count;
        const items = [{ tokens: [7, 8, 9], start: 0, blockTable: [3], rows: [2] }];
        const first = decoder.sample(items);
        const next = { tokens: [0], start: 3, blockTable: [3], rows: [0], follows: 0 };
        const answer = [...(await first.read()), ...(await decoder.sample([next], first).read())];
        expect(own.pipelines.count).toBe(kernels);
        decoder.close();
        return { answer, dispatches };
      });
    };
    const [two, four] = [await rehearsalOf(2), await rehearsalOf(4)];
    setDevice(gpu); // to open a device makes it the current one, for the tests that follow too
    expect(four.dispatches).toBe(two.dispatches);
    const decoder = decoderOf(make(4));
    const plain = await decoder.greedy([{ tokens: [7, 8, 9], start: 0, blockTable: [3], rows: [2] }]);
    expect(four.answer[0]).toBe(plain[0]);
    decoder.close();
  });
});

describe.each(allModels)("paged decoding of %s", (_, make) => {
  it("computes what the model does out of whole rows", async () => {
    const model = make(2);
    const tokens = Array.from({ length: 20 }, (_, i) => (i * 37) % 300);
    const decoder = decoderOf(model);
    const rows = tokens.map((_, i) => i);
    const [paged] = await decoder.forward([{ tokens, start: 0, blockTable: [2, 5], rows }]);
    decoder.close();
    const positions = tensor(rows, [1, 20], "i32");
    const logits = model.logits(model.hidden(tensor(tokens, [1, 20], "i32"), { positions }));
    const whole = Array.from(await logits.data());
    const flat = paged!.flatMap((row) => Array.from(row));
    const largest = (values: number[]) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    expect(largest(flat.map((v, i) => v - whole[i]))).toBeLessThan(1e-5 * largest(whole));
  });

  it("gives a prompt the same bits whole, in chunks, token by token and beside others", async () => {
    const decoder = decoderOf(make(2));
    const tokens = Array.from({ length: 60 }, (_, i) => (i * 37) % 300);
    const table = (sequence: number) => [0, 1, 2, 3].map((b) => b * 4 + sequence);
    /** Logits of all rows, in steps of so many tokens. */
    const run = async (sequence: number, size: number, beside: typeof tokens) => {
      const logits: Float32Array[] = [];
      for (let start = 0; start < tokens.length; start += size) {
        const part = tokens.slice(start, start + size);
        const item = { tokens: part, start, blockTable: table(sequence), rows: [...part.keys()] };
        const other = { tokens: beside.slice(0, 1 + start), start: 0, blockTable: table(0), rows: [] };
        logits.push(...(await decoder.forward(beside.length > 0 ? [other, item] : [item])).at(-1)!);
      }
      return logits;
    };
    const whole = await run(1, tokens.length, []);
    expect(await run(2, 1, [])).toEqual(whole);
    expect(await run(3, 7, [])).toEqual(whole);
    expect(await run(2, 17, tokens.toReversed())).toEqual(whole);
    decoder.close();
  });
});

/** Inputs with a row for each row of the result. */
const perRow = ["x", "residual"];

/** A call for one row of another call's. */
function rowOf(names: readonly string[], inputs: readonly Tensor[], row: number): Tensor[] {
  return inputs.map((t, i) => {
    if (names[i] === "places") return narrow(t, 1, row, 1);
    return perRow.includes(names[i]) ? narrow(t, 0, row, 1) : t;
  });
}

describe("a row of the fused products", () => {
  it.each([fusedLinearOp, fusedQkvOp] as unknown as AnyOp[])(
    "has the same bits alone and beside others: $name",
    async (op) => {
      const kind = gpu.profile.class;
      const reference = new ReferenceDevice();
      const ran = new Set<string>();
      for (const sample of op.samples()) {
        if ((sample.attrs as { chosen?: boolean }).chosen) continue;
        const inputs = sampleInputs(gpu, op, sample as never);
        const rows = inputs[0].shape[0];
        const names = inputNames(sample.attrs as FusedLinearAttrs);
        const expected = await runSample(
          reference,
          op,
          sampleInputs(reference, op, sample as never),
          sample.attrs,
        );
        for (const { name, when } of op.variants) {
          // A GPU's kernel runs on a processor as well.
          Object.assign(gpu.profile, { class: name === "subgroups" ? "gpu" : "cpu" });
          const outputs = op.infer(inputs, sample.attrs);
          if (when && !when({ profile: gpu.profile, inputs, outputs, attrs: sample.attrs } as never))
            continue;
          gpu.forcedVariant.set(op.name, name);
          const [together] = await runSample(gpu, op, inputs, sample.attrs);
          expect(worstRatio(together!, expected[0], 1e-4, 1e-5), `${sample.name} by ${name}`).toBeLessThan(1);
          const alone: number[] = [];
          for (let r = 0; r < rows; r++)
            alone.push(...(await runSample(gpu, op, rowOf(names, inputs, r), sample.attrs))[0]);
          expect(alone, `${sample.name} by ${name}`).toEqual(together);
          ran.add(name);
        }
      }
      gpu.forcedVariant.clear();
      Object.assign(gpu.profile, { class: kind });
      expect(ran.size).toBe(op.variants.length);
    },
  );

  it("is left to the tiles of matmul in large models on a GPU, and where too few buffers may be bound", () => {
    const on = { ...gpu.profile, class: "gpu" as const, maxStorageBuffers: 16 };
    expect(suitsFusion(on, 768)).toBe(true);
    expect(suitsFusion(on, 768, { inOut: true })).toBe(false);
    expect(suitsFusion(on, 4096)).toBe(false);
    expect(suitsFusion({ ...on, maxStorageBuffers: 8 }, 64)).toBe(false);
  });
});
