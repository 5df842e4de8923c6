import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { loadAdapted } from "../models/formats/peft_directory.ts";
import { addAdapter, loadModel, saveAdapter, useAdapter } from "../models/index.ts";
import { normalInit } from "../nn/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";
import { type ExportOptions, exportModel } from "../train/deploy/export.ts";
import { difference, largest, read, tinyGpt2, tinyLlama, tokens } from "./support/tiny_decoders.ts";

// What kiln exports, read by transformers and PEFT. Needs a Python with both: KILN_PYTHON, or python3.

const python = process.env.KILN_PYTHON ?? "python3";
const isInstalled = spawnSync(python, ["-c", "import transformers, peft"]).status === 0;
const folder = mkdtempSync(join(tmpdir(), "kiln-transformers-"));
const text = "Once upon a time, there was a";
const script = `
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
path, adapter, ids, text = json.loads(sys.argv[1])
model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
dtype = str(model.dtype)
model = model.float().eval()
if adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
logits = model(torch.tensor([ids])).logits.flatten().tolist()
missing = [str(name) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
print(json.dumps({"logits": logits, "dtype": dtype, "missing": missing, "ids": AutoTokenizer.from_pretrained(path)(text).input_ids}))
`;
interface Answer {
  logits: number[];
  dtype: string;
  missing: string[];
  ids: number[];
}

function theirs(path: string, adapter: string | null = null): Answer {
  const done = spawnSync(python, ["-c", script, JSON.stringify([path, adapter, tokens, text])], {
    encoding: "utf8",
    env: { ...process.env, HF_HUB_OFFLINE: "1" },
    maxBuffer: 1 << 26,
  });
  if (done.status !== 0) throw new Error(done.stderr);
  return JSON.parse(done.stdout.trim().split("\n").at(-1)!);
}

const bases = {
  llama: () => tinyLlama({ vocab_size: 280, tie_word_embeddings: false }),
  gpt2: () => tinyGpt2({ vocab_size: 280 }),
};
const tokenizer = new Tokenizer(
  trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 280, special_tokens: ["<|end|>"] }),
  { tokenizer_config: { eos_token: "<|end|>" } },
);

beforeAll(async () => {
  await openDevice();
  for (const [name, make] of Object.entries(bases))
    await make().savePretrained(join(folder, name), tokenizer);
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});

describe.runIf(isInstalled).each(Object.keys(bases) as (keyof typeof bases)[])(
  "an exported %s in transformers and PEFT (needs Python with both)",
  (base) => {
    const source = join(folder, base);
    const written = async (
      options: Pick<ExportOptions, "to" | "dtype"> & { shard?: number },
      from = source,
    ) => {
      const out = join(folder, `${base}-${JSON.stringify(options).replace(/\W+/g, "-")}`);
      const { shard = 5e9, ...rest } = options;
      await exportModel(from, { ...rest, out, maxShardBytes: shard });
      return out;
    };

    it("in f16 computes the same, with the same token ids", async () => {
      const path = await written({ to: "hf", dtype: "f16" });
      const { logits, dtype, missing, ids } = theirs(path);
      const { model } = await loadModel(path);
      const ours = await read(model);
      expect(difference(logits, ours)).toBeLessThan(1e-4 * largest(ours));
      expect([dtype, missing]).toEqual(["torch.float16", []]);
      expect(ids).toEqual(await tokenizer.encode(text));
    });

    it("in shards computes the same", async () => {
      const path = await written({ to: "hf", dtype: "f32", shard: 60_000 });
      expect(readdirSync(path).filter((name) => /^model-\d+-of-\d+/.test(name)).length).toBeGreaterThan(2);
      const { logits, dtype, missing } = theirs(path);
      const ours = await read(bases[base]());
      expect(difference(logits, ours)).toBeLessThan(1e-4 * largest(ours));
      expect([dtype, missing]).toEqual(["torch.float32", []]);
    });

    it("with an adapter exported to peft computes the same", async () => {
      const model = bases[base]();
      const adapter = addAdapter(model, {
        r: 4,
        lora_alpha: 6,
        target_modules: "all-linear",
        base_model_name_or_path: source,
      });
      for (const [name, parameter] of adapter.parameters()) normalInit(parameter, 0.2, 3, name);
      useAdapter(model, "default");
      const from = join(folder, `${base}-adapter`);
      await saveAdapter(from, model);
      const path = await written({ to: "peft", dtype: "f32" }, from);
      const ours = await read((await loadAdapted(source, path)).model);
      expect(difference(theirs(source, path).logits, ours)).toBeLessThan(1e-4 * largest(ours));
      expect(difference(ours, await read(bases[base]()))).toBeGreaterThan(largest(ours) / 10);
    });
  },
);
