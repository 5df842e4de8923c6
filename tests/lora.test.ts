import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { verify } from "../bench/verify/index.ts";
import { grads } from "../core/autograd.ts";
import { setDevice } from "../core/device.ts";
import { scope } from "../core/scope.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { openDevice } from "../kernels/index.ts";
import {
  type AdapterConfig,
  addAdapter,
  type CausalLM,
  createModel,
  loadAdapter,
  loadWeights,
  mergeAdapter,
  PagedDecoder,
  parseAdapterConfig,
  parseSafetensors,
  readModelConfig,
  readModelWeights,
  removeAdapter,
  saveAdapter,
  serializeSafetensors,
  unmergeAdapter,
  useAdapter,
} from "../models/index.ts";
import { AdamW } from "../train/optimizers/index.ts";
import { Trainer } from "../train/trainer.ts";
import { withAdapter } from "./support/tiny_adapters.ts";
import {
  difference,
  largest,
  logitsOf,
  positions,
  read,
  tinyGpt2,
  tinyLlama,
  tokens,
  valuesOf,
} from "./support/tiny_decoders.ts";

const golden = new URL("./fixtures/golden/models/", import.meta.url).pathname;
const more = new URL("../../shared/golden/more/", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "kiln-lora-"));
beforeAll(async () => {
  setDevice(await openDevice());
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  setDevice(null);
});

const llama = () => tinyLlama({ tie_word_embeddings: false });

const cases: [string, () => CausalLM, Partial<AdapterConfig>][] = [
  ["LoRA on Linear", llama, { r: 4, lora_alpha: 12 }],
  [
    "rank-stabilised LoRA on every layer, embedding and head",
    llama,
    {
      r: 3,
      use_rslora: true,
      target_modules: "all-linear",
      rank_pattern: { "layers\\.0\\.self_attn\\.q_proj": 5 },
      alpha_pattern: { k_proj: 3 },
    },
  ],
  ["LoRA on embedding and head", llama, { target_modules: ["embed_tokens", "lm_head"] }],
  [
    "DoRA on Linear and embedding",
    llama,
    { use_dora: true, target_modules: ["q_proj", "down_proj", "embed_tokens"] },
  ],
  ["LoRA on Conv1D", tinyGpt2, { target_modules: ["c_attn", "c_fc", "c_proj"] }],
  ["DoRA on Conv1D", tinyGpt2, { use_dora: true }],
];

describe.each(cases)("%s", (_, make, config) => {
  it("applied and merged are one model; unmerged, the base has its bits again", async () => {
    const model = make();
    const base = await valuesOf(model.parameters());
    const before = await read(model);
    withAdapter(model, config);
    const applied = await read(model);
    expect(difference(applied, before)).toBeGreaterThan(0.05 * largest(before));
    const { drift, largest: most } = await mergeAdapter(model, () => logitsOf(model));
    const merged = await read(model);
    expect(difference(applied, merged)).toBe(drift);
    expect(drift).toBeLessThan(1e-5 * most);
    expect([...model.trainedParameters().keys()]).toEqual([...model.namedParameters().keys()]);
    unmergeAdapter(model);
    expect(await valuesOf(model.parameters())).toEqual(base);
    expect(await read(model)).toEqual(applied);
    removeAdapter(model, "default");
    expect(await read(model)).toEqual(before);
  });

  it("serves what it computes, the same bits in any batch", async () => {
    const model = make();
    const decoder = new PagedDecoder(model, {
      numBlocks: 8,
      blockSize: 8,
      maxSequences: 2,
      maxBlocksPerSequence: 4,
    });
    const whole = { tokens, start: 0, blockTable: [2, 5, 1], rows: positions };
    const [plain] = await decoder.forward([whole]);
    withAdapter(model, config);
    const [paged] = await decoder.forward([whole]);
    const flat = paged!.flatMap((values) => Array.from(values));
    const want = await read(model);
    expect(difference(flat, want)).toBeLessThan(1e-5 * largest(want));
    const other = { tokens: tokens.toReversed(), start: 0, blockTable: [0, 3, 4], rows: [] };
    const [, beside] = await decoder.forward([other, whole]);
    expect(beside).toEqual(paged);
    const alone = [];
    for (const at of positions)
      alone.push((await decoder.forward([{ ...whole, tokens: [tokens[at]], start: at, rows: [0] }]))[0][0]);
    expect(alone).toEqual(paged);
    useAdapter(model, null);
    expect((await decoder.forward([whole]))[0]).toEqual(plain);
    decoder.close();
  });

  it("starts as the base, and a saved directory is loaded with its bits", async () => {
    const model = make();
    const before = await read(model);
    addAdapter(model, config, { name: "fresh", seed: 3 });
    useAdapter(model, "fresh");
    expect(difference(await read(model), before)).toBeLessThan(1e-6 * largest(before));
    withAdapter(model, config, "trained");
    const applied = await read(model);
    const path = join(folder, "saved");
    await saveAdapter(path, model, "trained");
    const other = make();
    await loadAdapter(other, path);
    expect(await read(other)).toEqual(before);
    useAdapter(other, "default");
    expect(await read(other)).toEqual(applied);
    useAdapter(model, "fresh");
    expect(difference(await read(model), before)).toBeLessThan(1e-6 * largest(before));
  });
});

const batch = {
  tokens: Int32Array.from(tokens),
  targets: Int32Array.from(tokens.slice(1).concat(-100)),
  positions: Int32Array.from(positions),
  segments: new Int32Array(tokens.length),
  bytes: tokens.length,
  supervised: tokens.length - 1,
};

describe("training", () => {
  it("changes the adapter alone, and modules_to_save, which the base has back afterwards", async () => {
    const model = llama();
    const before = await valuesOf(model.parameters());
    const logits = await read(model);
    const config = { modules_to_save: ["lm_head", "model.norm"], lora_dropout: 0.1 };
    addAdapter(model, config, { seed: 1 });
    useAdapter(model, "default");
    const trained = model.trainedParameters();
    const names = [...trained.keys()];
    expect(names).toContain("base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight");
    expect(names.filter((name) => !name.includes("lora_"))).toEqual([
      "base_model.model.lm_head.weight",
      "base_model.model.model.norm.weight",
    ]);
    const trainer = new Trainer(model, new AdamW(trained, { weightDecay: 0 }), {
      maxGradNorm: 1,
      sequenceLength: tokens.length,
      dropoutSeed: 5,
    });
    const losses: number[] = [];
    for (let step = 0; step < 8; step++) losses.push(await trainer.step([batch], 0.01).lossSum.item());
    expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]);
    const after = await read(model);
    const path = join(folder, "trained");
    await saveAdapter(path, model);
    useAdapter(model, null);
    expect(await valuesOf(model.parameters())).toEqual(before);
    expect(await read(model)).toEqual(logits);
    // Two adapters on one base, one active at a time.
    await loadAdapter(model, path, "again");
    useAdapter(model, "again");
    expect(await read(model)).toEqual(after);
    const { drift, largest: most } = await mergeAdapter(model, () => logitsOf(model));
    expect(drift).toBeLessThan(1e-5 * most);
  });

  it.each([llama, tinyGpt2])(
    "with gradient checkpointing has the same bits, dropout included (%#)",
    async (make) => {
      const run = async (recompute: boolean) => {
        const model = make();
        model.recompute = recompute;
        withAdapter(model, { lora_dropout: 0.25, target_modules: "all-linear" });
        Object.defineProperty(model, "dropoutRates", {
          value: { attention: 0.1, residual: 0.2, embedding: 0.1 },
        });
        const column = (values: ArrayLike<number>) => tensor(values, [1, tokens.length], "i32");
        const inputs = {
          tokens: column(batch.tokens),
          targets: column(batch.targets),
          positions: column(batch.positions),
        };
        const leaves = [...model.trainedParameters().values()];
        const made = scope(() => {
          const loss = model.loss({ ...inputs, dropoutKey: tensor([1, 2, 3, 4], [4], "u32") });
          return [loss, ...grads(loss, leaves)];
        });
        return valuesOf(made as Tensor[]);
      };
      const [kept, again] = [await run(false), await run(true)];
      expect(again).toEqual(kept);
      expect(largest(kept.flat())).toBeGreaterThan(0);
    },
  );
});

describe("adapters of PEFT", () => {
  const run = async (dir: string, filter: string) => {
    const lines: string[] = [];
    return { ...(await verify(dir, { write: (line) => lines.push(line), filter })), lines };
  };

  it("have PEFT's logits, loss, gradients and merged matrices", async () => {
    expect(await run(join(golden, ".."), "llama-lora")).toMatchObject({ passed: 5, failed: 0, skipped: 0 });
  });

  it.skipIf(!existsSync(more)).each(["gpt2-lora", "llama-rslora", "llama-dora"])(
    "of other kinds too (skipped: no ../shared/golden): %s",
    async (name) => expect(await run(more, name)).toMatchObject({ passed: 5, failed: 0, skipped: 0 }),
  );

  const loaded = async () => {
    const model = createModel(await readModelConfig(join(golden, "llama")));
    loadWeights(model, await readModelWeights(join(golden, "llama")));
    return model;
  };

  /** The golden adapter with something else in it. */
  function changed(
    name: string,
    edit: (tensors: Map<string, { shape: number[]; bytes: Uint8Array; dtype: "F32" }>) => void,
    config = {},
  ) {
    const dir = join(folder, name);
    cpSync(join(golden, "llama-lora"), dir, { recursive: true });
    const path = join(dir, "adapter_model.safetensors");
    const tensors = parseSafetensors(readFileSync(path), path);
    edit(tensors as never);
    writeFileSync(path, serializeSafetensors(tensors));
    const json = join(dir, "adapter_config.json");
    writeFileSync(json, JSON.stringify({ ...JSON.parse(readFileSync(json, "utf8")), ...config }));
    return dir;
  }

  const q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
  it.each<[string, Parameters<typeof changed>[1], object, RegExp]>([
    [
      "another base",
      (t) => t.set(q, { dtype: "F32", shape: [4, 50], bytes: new Uint8Array(800) }),
      {},
      /is for another base: .*layers\.1\.self_attn\.q_proj\.lora_A\.weight is \[4, 50\], .* need \[4, 48\]/,
    ],
    ["another rank", () => {}, { r: 5 }, /lora_A\.weight is \[4, \d+\], .* need \[5, \d+\]/],
    [
      "a tensor missing",
      (t) => t.delete(q),
      {},
      /lacks base_model.*layers\.1\.self_attn\.q_proj\.lora_A\.weight/,
    ],
    ["a tensor more", (t) => t.set(`${q}s`, t.get(q)!), {}, /lora_A\.weights", for which .* no place/],
    [
      "NaN",
      (t) => t.get(q)!.bytes.set([0, 0, 192, 127], 8),
      {},
      /holds NaN in "base_model.*q_proj\.lora_A\.weight" \(value 2\)/,
    ],
    [
      "an unknown module",
      () => {},
      { target_modules: ["q_prj"] },
      /"q_prj" is the name of no module; did you mean q_proj\?/,
    ],
    ["a pattern that is none", () => {}, { rank_pattern: { "(": 3 } }, /"\(" is not a regular expression/],
    ["another kind of adapter", () => {}, { peft_type: "IA3" }, /peft_type is "IA3"/],
    ["biases", () => {}, { bias: "all" }, /bias is "all", which kiln does not compute/],
  ])("with %s are refused in one line, and nothing is left of them", async (name, edit, config, message) => {
    const model = await loaded();
    const dir = changed(name.replaceAll(" ", "-"), edit, config);
    const error = await loadAdapter(model, dir).catch((e: Error) => e);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain("\n");
    expect(model.adapters.size).toBe(0);
    expect([...model.trainedParameters().keys()]).toEqual([...model.namedParameters().keys()]);
  });

  it("need a few keys of a config only, and embeddings of the base beside them are compared", async () => {
    const model = await loaded();
    const embed = model.namedParameters().get("model.embed_tokens.weight")!;
    const values = Float32Array.from(await embed.data());
    const tensorOf = () => ({
      dtype: "F32" as const,
      shape: [...embed.shape],
      bytes: new Uint8Array(values.slice().buffer),
    });
    const name = "base_model.model.model.embed_tokens.base_layer.weight";
    await loadAdapter(
      model,
      changed("embedding", (t) => t.set(name, tensorOf())),
      "a",
    );
    values[7] += 1;
    const other = changed("other-embedding", (t) => t.set(name, tensorOf()));
    await expect(loadAdapter(model, other, "b")).rejects.toThrow(/is for another base: its .*embed_tokens/);
    const minimal = {
      peft_type: "LORA",
      r: 4,
      lora_alpha: 12,
      target_modules: ["q_proj"],
      task_type: "CAUSAL_LM",
    };
    expect(parseAdapterConfig(minimal)).toMatchObject({ lora_dropout: 0, use_dora: false, rank_pattern: {} });
  });
});

it("the state of a model with an adapter keeps the base's names; unknown targets name the nearest", () => {
  const model = tinyGpt2();
  const names = [...model.stateDict().keys()];
  withAdapter(model, {});
  expect([...model.stateDict().keys()]).toEqual(names);
  expect(() => addAdapter(model, { target_modules: ["c_atn"] }, { name: "b" })).toThrow(
    /did you mean c_attn\?/,
  );
  expect(() => addAdapter(model, { target_modules: ["mlp"] }, { name: "b" })).toThrow(
    /is no layer that takes an adapter/,
  );
  expect(() => addAdapter(model, {})).toThrow(/has an adapter "default" already/);
  expect(() => useAdapter(model, "x")).toThrow(/no adapter "x"; it has default/);
});

it("an adapter of an embedding that the head shares is not merged", async () => {
  const model = tinyGpt2();
  withAdapter(model, { target_modules: ["wte"] });
  await expect(mergeAdapter(model, () => logitsOf(model))).rejects.toThrow(/which lm_head.weight shares/);
});

it("first values follow from seed and name: uniform in +-1 / sqrt(in) for A, 0 for B", async () => {
  const model = llama();
  const values = async (name: string, seed: number) => {
    const parameters = addAdapter(model, { r: 16 }, { name, seed }).parameters();
    const of = async (end: string) =>
      Array.from(await parameters.get(`base_model.model.model.layers.0.self_attn.${end}`)!.data());
    return {
      a: await of("q_proj.lora_A.weight"),
      other: await of("v_proj.lora_A.weight"),
      b: await of("q_proj.lora_B.weight"),
    };
  };
  const first = await values("first", 1);
  expect(await values("same", 1)).toEqual(first);
  expect((await values("another", 2)).a).not.toEqual(first.a);
  expect(first.other).not.toEqual(first.a);
  expect(largest(first.b)).toBe(0);
  expect(largest(first.a)).toBeLessThanOrEqual(1 / 8);
  expect(largest(first.a)).toBeGreaterThan(0.99 / 8);
  const mean = first.a.reduce((sum, v) => sum + v, 0) / first.a.length;
  // 1,024 values of standard deviation 0.072: four standard errors.
  expect(Math.abs(mean)).toBeLessThan(0.009);
});
