import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { saveModel } from "../models/formats/hf_directory.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { type QuickestOptions, takeQuickest } from "../serve/adapter_choice.ts";
import { timeDecoding } from "../serve/adapter_trial.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { exportModel } from "../train/deploy/export.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-quickest-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe.runIf(process.platform === "linux" && process.arch === "x64")(
  "the quickest software adapter",
  () => {
    const model = join(folder, "model");
    const times: Record<string, { one: number; many: number }> = {
      lavapipe: { one: 2, many: 4 },
      "lavapipe on one thread": { one: 1, many: 5 },
      SwiftShader: { one: 1.5, many: 6 },
    };
    const timeOf = vi.fn<NonNullable<QuickestOptions["timeOf"]>>(({ name }) => times[name]);

    beforeEach(() => {
      const cache = mkdtempSync(join(folder, "cache-"));
      mkdirSync(join(cache, "lavapipe"));
      // Never loaded: that it is there makes it a candidate.
      writeFileSync(join(cache, "lavapipe/libvulkan_lvp.so"), "a driver");
      mkdirSync(model, { recursive: true });
      writeFileSync(join(model, "config.json"), "{}");
      vi.stubEnv("KILN_CACHE", cache);
      vi.stubEnv("KILN_ADAPTER", "software");
      vi.stubEnv("LP_NUM_THREADS", undefined);
      timeOf.mockClear();
    });
    afterEach(() => vi.unstubAllEnvs());

    it("is measured once, taken, and named with the reason", async () => {
      expect(await takeQuickest(model, "f32", { measure: false, timeOf })).toBeNull();
      const line = await takeQuickest(model, "f32", { timeOf });
      expect(line).toMatch(
        /^lavapipe on one thread: .* 1\.0 and 5\.0 ms, lavapipe 2\.0 and 4\.0 ms, SwiftShader/,
      );
      expect([process.env.KILN_ADAPTER, process.env.LP_NUM_THREADS]).toEqual(["lavapipe", "0"]);
      expect(timeOf).toHaveBeenCalledTimes(6);
      Object.assign(process.env, { KILN_ADAPTER: "software" });
      delete process.env.LP_NUM_THREADS;
      expect(await takeQuickest(model, "f32", { measure: false, timeOf })).toBe(line);
      expect(timeOf).toHaveBeenCalledTimes(6);
    });

    it("is the one that another server found first, when several measure at once", async () => {
      let others: Promise<string | null> | null = null;
      const slower = vi.fn<NonNullable<QuickestOptions["timeOf"]>>(({ name }) => ({
        one: name === "SwiftShader" ? 9 : 1,
        many: 9,
      }));
      const mine = await takeQuickest(model, "f32", {
        timeOf: (candidate, ...rest) => {
          others ??= takeQuickest(model, "f32", { timeOf });
          vi.stubEnv("KILN_ADAPTER", "software");
          return slower(candidate, ...rest);
        },
      });
      expect(slower).toHaveBeenCalled();
      expect(mine).toBe(await others);
    });

    it("is measured anew for another shape of model or another dtype", async () => {
      await takeQuickest(model, "f32", { timeOf });
      for (const change of [
        () => writeFileSync(join(model, "config.json"), '{"hidden_size":64}'),
        () => vi.stubEnv("KILN_F", "16"),
      ]) {
        change();
        vi.stubEnv("KILN_ADAPTER", "software");
        vi.stubEnv("LP_NUM_THREADS", undefined);
        timeOf.mockClear();
        await takeQuickest(model, process.env.KILN_F ? "f16" : "f32", { timeOf });
        expect(timeOf).toHaveBeenCalledTimes(6);
      }
    });

    it("gives way to an adapter that is named, and to threads that are", async () => {
      vi.stubEnv("KILN_ADAPTER", "swiftshader");
      expect(await takeQuickest(model, "f32", { timeOf })).toBeNull();
      expect(process.env.KILN_ADAPTER).toBe("swiftshader");
      vi.stubEnv("KILN_ADAPTER", "software");
      vi.stubEnv("LP_NUM_THREADS", "2");
      expect(await takeQuickest(model, "f32", { timeOf })).toBeNull();
      expect(timeOf).not.toHaveBeenCalled();
    });

    it("leaves out what does not run the model", async () => {
      timeOf.mockImplementation(({ name }) => (name === "SwiftShader" ? times[name] : null));
      expect(await takeQuickest(model, "f32", { timeOf })).toMatch(/^SwiftShader: /);
      timeOf.mockImplementation(() => null);
      vi.stubEnv("KILN_ADAPTER", "software");
      writeFileSync(join(model, "config.json"), '{"hidden_size":65}');
      expect(await takeQuickest(model, "f32", { timeOf })).toBeNull();
      expect(process.env.KILN_ADAPTER).toBe("software");
      timeOf.mockImplementation(({ name }) => times[name]);
    });
  },
);

it("times decoding with a model's folder, and with a GGUF file of it", async () => {
  await openDevice();
  const tokenizer = new Tokenizer(
    trainBpe(["a small text"], { vocab_size: 262, special_tokens: ["<|endoftext|>"] }),
  );
  const config = tinyllmConfig({ vocab_size: tokenizer.vocabSize, num_hidden_layers: 1 });
  const directory = join(folder, "timed");
  await saveModel(directory, new LlamaForCausalLM(config).init(1), tokenizer);
  const file = join(folder, "timed.gguf");
  await exportModel(directory, { to: "gguf", dtype: "f32", out: file, maxShardBytes: 1e9 });
  for (const path of [directory, file]) {
    const { one, many } = await timeDecoding(path, "f32");
    expect(one).toBeGreaterThan(0);
    expect(many).toBeGreaterThan(0);
  }
  setDevice(null);
});
