import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { backward, grads } from "../core/autograd.ts";
import { compile } from "../core/compile.ts";
import { setDevice } from "../core/device.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { add, matmul, mul, sub, sum } from "../kernels/index.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import {
  AdamW,
  createOptimizer,
  type OptimizerSettings,
  optimizerSchema,
  optimizers,
} from "../train/index.ts";
import { parsePretrainConfig, recipe } from "../train/recipes/pretrain.ts";
import { describeSettings, parseOverrides } from "../train/settings/load.ts";
import golden from "./fixtures/optimizers.json" with { type: "json" };
import { toyRuns } from "./support/train_toy.ts";

afterAll(() => setDevice(null));
const { place, train, resume } = toyRuns();

// biome-ignore lint/suspicious/noExplicitAny: files of a run are edited as they are.
type Json = any;

const names = Object.keys(optimizers);
const settingsOf = (name: string) => optimizerSchema.parse({ name }) as OptimizerSettings;
const valuesOf = (tensors: readonly Tensor[]) =>
  Promise.all(tensors.map(async (t) => Array.from(await t.data())));

/** y = x w + b is learned from four points. */
function problem() {
  const w = tensor([0.3, -0.2, 0.1, 0.4], [2, 2]).requireGrad();
  const b = tensor([0.1, -0.1], [1, 2]).requireGrad();
  const x = tensor([1, 2, 3, 4, -1, 0, 2, -2], [4, 2]);
  const y = tensor([1, 0, 2, -1, 0, 1, 0, 0], [4, 2]);
  const loss = () => {
    const error = sub(add(matmul(x, w), b), y);
    return sum(mul(error, error));
  };
  return { parameters: [w, b], loss };
}

describe.each(names)("%s", (name) => {
  it("learns from backward(), step() and zeroGrad(), with the same bits by grads() in a compiled step", async () => {
    const eager = problem();
    const optimizer = createOptimizer(eager.parameters, settingsOf(name));
    const compiled = problem();
    const other = createOptimizer(compiled.parameters, settingsOf(name));
    const update = compile(() => {
      const loss = compiled.loss();
      other.step(grads(loss, compiled.parameters));
      return loss;
    });
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) {
      optimizer.lr = other.lr = 0.02 / (1 + step / 4);
      const loss = eager.loss();
      backward(loss);
      optimizer.step();
      optimizer.zeroGrad();
      losses.push(await loss.item());
      expect(await update().item()).toBe(losses.at(-1));
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]);
    expect([optimizer.steps, other.steps]).toEqual([12, 12]);
    expect(await valuesOf(compiled.parameters)).toEqual(await valuesOf(eager.parameters));
  });
});

/*
 * tests/fixtures/optimizers.json: torch.optim (2.13) in float64 with the table's defaults, lr 0.05, six steps on a matrix
 * [3, 4] and a vector [4], weight decay on the matrix alone; muon is torch.optim.Muon(adjust_lr_fn="match_rms_adamw") on
 * the matrix and AdamW on the vector. Lion is the paper's Algorithm 2:
 *   u = sign(0.9 m + 0.1 g); p = p (1 - lr wd) - lr u; m = 0.99 m + 0.01 g
 */
describe.each(names)("%s", (name) => {
  it("moves as PyTorch's", async () => {
    const expected = golden.runs[name as keyof typeof golden.runs];
    const shapes = [[3, 4], [4]];
    const parameters = golden.start.map((values, i) => tensor(values, shapes[i]));
    const optimizer = createOptimizer(parameters, settingsOf(name));
    optimizer.lr = golden.lr;
    for (const gradients of golden.gradients) optimizer.step(gradients.map((g, i) => tensor(g, shapes[i])));
    // Newton-Schulz rounds to bfloat16: another order of summation may move an update by 2^-8 of itself.
    const tolerance = name === "muon" ? (golden.lr * golden.gradients.length) / 256 : 2e-6;
    for (const [i, values] of (await valuesOf(parameters)).entries())
      for (const [j, value] of values.entries())
        expect(Math.abs(value - expected[i][j])).toBeLessThan(tolerance);
  });

  it("is chosen by train.optimizer.name, and a run resumes bit for bit", async () => {
    const settings = [`train.optimizer.name=${name}`, "train.schedule=constant", "sample.every=0"];
    const whole = await train(`whole-${name}`, ...settings, "train.steps=4");
    await train(`half-${name}`, ...settings, "train.steps=2");
    const resumed = await resume(`half-${name}`, "train.steps=4");
    expect(resumed.weights).toBe(whole.weights);
    const losses = (records: typeof whole.records) => records.flatMap(({ loss }) => loss ?? []);
    expect(losses(resumed.records)).toEqual(losses(whole.records));
  });
});

describe("the settings of an optimizer", () => {
  const parse = (...set: string[]) =>
    parsePretrainConfig("{}", "c.yaml", parseOverrides(set)).train.optimizer;

  it("depend on its name, and say which names there are", () => {
    expect(parse("train.optimizer.name=sgd")).toMatchObject({ name: "sgd", momentum: 0.9 });
    expect(parse("train.optimizer.weight_decay=0.3")).toMatchObject({ name: "adamw", weight_decay: 0.3 });
    expect(() => parse("train.optimizer.name=adamx")).toThrow(
      /train\.optimizer\.name is "adamx"; expected adamw or .* or adafactor/,
    );
    expect(() => parse("train.optimizer.name=lion", "train.optimizer.eps=1")).toThrow(
      /unknown key train\.optimizer\.eps; .*betas/,
    );
    const listed = describeSettings(recipe.schema).map((setting) => setting.name);
    for (const name of names) expect(listed).toContain(`train.optimizer.name=${name}`);
    expect(listed).toContain("train.optimizer.adjust_lr_fn");
  });

  it("are also read under the names that older files, runs and checkpoints have", async () => {
    expect(parse("train.betas=[0.8, 0.9]", "train.weight_decay=0.2")).toEqual({
      name: "adamw",
      betas: [0.8, 0.9],
      weight_decay: 0.2,
      eps: 1e-8,
    });
    await train("old", "train.weight_decay=0.2", "train.steps=2", "train.schedule=constant");
    const edit = (file: string, change: (json: Json) => void) => {
      const path = join(place("old"), file);
      const json = JSON.parse(readFileSync(path, "utf8"));
      change(json);
      writeFileSync(path, JSON.stringify(json));
      return path;
    };
    edit("config.json", (config) => {
      const { name: _, ...others } = config.train.optimizer;
      config.train = { ...config.train, ...others, optimizer: undefined };
    });
    const checkpoint = "checkpoints/step-000002";
    const state = edit(`${checkpoint}/trainer_state.json`, ({ settings }) => {
      for (const key of Object.keys(settings).filter((name) => name.startsWith("train.optimizer."))) {
        if (key !== "train.optimizer.name") settings[key.replace(".optimizer", "")] = settings[key];
        delete settings[key];
      }
    });
    edit(`${checkpoint}/checksums.json`, ({ sha256 }) => {
      sha256["trainer_state.json"] = createHash("sha256").update(readFileSync(state)).digest("hex");
    });
    const { text } = await resume("old", "train.steps=3");
    expect(text).toContain("changed from here on: train.steps 2 -> 3");
    expect(text).not.toContain("optimizer");
    const other = resume("old", "train.steps=4", "train.optimizer.name=sgd");
    await expect(other).rejects.toThrow(/these cannot change: train\.optimizer\.name adamw -> sgd/);
  });
});

describe("an optimizer", () => {
  it("of Muon's kind leaves vectors, embeddings and the head to AdamW", () => {
    const sizes = { vocab_size: 20, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 };
    const model = new LlamaForCausalLM(tinyllmConfig({ ...sizes, tie_word_embeddings: false }));
    const kept = [...createOptimizer(model.namedParameters(), settingsOf("muon")).state().keys()];
    const of = (state: string) => kept.filter((key) => key.startsWith(state));
    expect(of("momentum_buffer.")).toHaveLength(7);
    expect(of("exp_avg.")).toEqual(
      expect.arrayContaining(["exp_avg.model.embed_tokens.weight", "exp_avg.lm_head.weight"]),
    );
    expect(of("exp_avg.")).toHaveLength(2 + 3);
  });

  it("takes gradients as an argument, null for a parameter that the loss does not depend on", async () => {
    const { parameters, loss } = problem();
    const before = await valuesOf(parameters);
    const idle = tensor([1, 2]).requireGrad();
    const optimizer = new AdamW([...parameters, idle], { lr: 0.1 });
    optimizer.step(grads(loss(), [...parameters, idle]));
    expect(await valuesOf(parameters)).not.toEqual(before);
    expect(await valuesOf([idle])).toEqual([[1, 2]]);
  });

  it("says what is missing where there are no gradients", () => {
    const optimizer = new AdamW(problem().parameters);
    expect(() => optimizer.step()).toThrow(/no parameter has a gradient; call loss\.backward\(\)/);
  });
});
