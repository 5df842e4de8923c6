import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadModel, readTensors } from "../models/formats/hf_directory.ts";
import { loadPretrainConfig } from "../train/recipes/pretrain.ts";
import { parseOverrides } from "../train/settings/load.ts";
import { toyRuns } from "./support/train_toy.ts";

/** What a run may train: presets, and models to start from. */
const { place, train, resume, pretrainWith } = toyRuns();

const gpt2 = ["model.preset=gpt2", "train.steps=4", "checkpoint.every=2"];

describe("a run that starts from a model", () => {
  it("has its weights, shape and tokenizer, from a run or a model folder, and resumes without it", async () => {
    const first = await train("first", "train.steps=4", "model.num_key_value_heads=1");
    const next = [
      "data.corpus.stories=40",
      "data.validation_fraction=0.4",
      "train.sequence_length=32",
      "train.batch_size=2",
      "train.warmup_steps=1",
      "train.schedule=constant_with_warmup",
      "sample.max_tokens=1",
      "checkpoint.every=2",
    ];
    const from = (name: string, origin: string, ...settings: string[]) =>
      pretrainWith([...next, `out_dir=${place(name)}`, `model.init_from=${place(origin)}`, ...settings]);
    // The first update of a warm-up has rate 0: the weights are still those that the run started from.
    for (const origin of ["first", "first/model", "first/checkpoints/step-000004"]) {
      const name = origin.replaceAll("/", "-");
      const run = await from(`from-${name}`, origin, "train.steps=1");
      expect(run.text).toContain(`starting from ${place(origin === "first" ? "first/model" : origin)}`);
      const { vocabSize } = first.tokenizer;
      expect(run.text).toContain(
        `tokenizer: ${vocabSize} tokens, from ${place(origin === "first" ? "first/model" : origin)}`,
      );
      expect(run.weights).toBe(first.weights);
      expect(run.validationLoss).toBe(first.validationLoss);
      expect(run.tokenizer.hash()).toBe(first.tokenizer.hash());
    }
    cpSync(place("first/model"), place("origin"), { recursive: true });
    const whole = await from("whole", "first", "train.steps=4");
    expect(whole.weights).not.toBe(first.weights);
    await from("cut", "origin", "train.steps=2");
    rmSync(place("origin"), { recursive: true });
    await expect(resume("cut", "train.steps=4", `model.init_from=${place("first")}`)).rejects.toThrow(
      /the run in .*cut did not start from .*first; leave --init-from out/,
    );
    const origin = `model.init_from=${place("origin")}`;
    expect((await resume("cut", "train.steps=4", origin)).weights).toBe(whole.weights);
  });

  it("is refused in one line where shape, vocabulary, tokenizer or files do not fit", async () => {
    const { tokenizer } = await train("source", "train.steps=1");
    await train("other", "train.steps=1", "tokenizer.vocab_size=280");
    const from = (origin: string, ...settings: string[]) =>
      train("refused", `model.init_from=${origin}`, ...settings);
    const source = place("source");
    await expect(from(place("nowhere"))).rejects.toThrow(/nowhere holds no model; name a folder/);
    await expect(from(source, "model.num_attention_heads=4")).rejects.toThrow(
      /say num_attention_heads 4, but .*source.model has 2: weights fit their own shape only; leave it out/,
    );
    await expect(from(source, `tokenizer.path=${place("other/model")}`)).rejects.toThrow(
      /tokenizer.path is not the tokenizer that .*source.model was trained with/,
    );
    await expect(from(source, "model.config=x.json")).rejects.toThrow(/give it or model.config, not both/);
    const damaged = join(source, "model/config.json");
    const text = readFileSync(damaged, "utf8");
    writeFileSync(damaged, text.replace(/"vocab_size": \d+/, '"vocab_size": 270'));
    await expect(from(source)).rejects.toThrow(
      `has ${tokenizer.vocabSize} tokens, its config says vocab_size 270; they belong to different models`,
    );
    rmSync(join(source, "model"), { recursive: true });
    writeFileSync(join(source, "checkpoints/step-000001/model.safetensors"), "");
    await expect(from(source)).rejects.toThrow(/model.safetensors is damaged.*; name another checkpoint/);
  });
});

describe("the gpt2 preset", () => {
  it("is GPT-2 small, changed by the usual settings", async () => {
    const made = await train("gpt2", ...gpt2);
    const { model } = await loadModel(made.modelDir);
    expect(model.toHfConfig()).toMatchObject({
      model_type: "gpt2",
      n_embd: 32,
      n_layer: 1,
      n_head: 2,
      n_positions: 1024,
      vocab_size: 300,
      resid_pdrop: 0,
      tie_word_embeddings: true,
    });
    expect(model.toHfConfig()).not.toHaveProperty("bias");
    const { model: settings } = await loadPretrainConfig(null, parseOverrides(["model.preset=gpt2"]));
    expect(settings.preset).toBe("gpt2");
    const biases = [...(await readTensors(made.model.namedParameters()))].filter(([name]) =>
      name.endsWith(".bias"),
    );
    expect(biases.some(([, { bytes }]) => bytes.some((byte) => byte !== 0))).toBe(true);
    await expect(train("llama", "model.bias=false")).rejects.toThrow("a Llama has no bias; leave it out");
  });

  it("without biases trains none: they are zeros in the checkpoint, which any reader of GPT-2 loads", async () => {
    const made = await train("unbiased", ...gpt2, "model.bias=false");
    const whole = made.model.numParameters;
    const trained = Number(/model: ([\d,]+) parameters/.exec(made.text)![1].replaceAll(",", ""));
    const weights = await readTensors((await loadModel(made.modelDir)).model.namedParameters());
    const biases = [...weights].filter(([name]) => name.endsWith(".bias"));
    // ln_1, c_attn, c_proj, ln_2, c_fc, c_proj, ln_f.
    expect(biases).toHaveLength(7);
    const width = 32;
    expect(whole - trained).toBe((1 + 3 + 1 + 1 + 4 + 1 + 1) * width);
    for (const [name, { bytes }] of biases)
      expect(
        bytes.every((byte) => byte === 0),
        name,
      ).toBe(true);
    const moments = readFileSync(join(place("unbiased"), "checkpoints/step-000004/optimizer.safetensors"));
    expect(moments.toString("latin1")).not.toContain(".bias");
    const config = JSON.parse(readFileSync(join(made.modelDir, "config.json"), "utf8"));
    expect(config.bias).toBe(false);
    // Bit for bit over a resume.
    await train("unbiased-cut", ...gpt2, "model.bias=false", "train.schedule=constant", "train.steps=2");
    const resumed = await resume("unbiased-cut", "train.steps=4");
    const straight = await train("unbiased-whole", ...gpt2, "model.bias=false", "train.schedule=constant");
    expect(resumed.weights).toBe(straight.weights);
  });
});
