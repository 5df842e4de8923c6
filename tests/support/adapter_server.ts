import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { writeGgufModel } from "../../models/formats/gguf_model.ts";
import { readTensors } from "../../models/formats/save_directory.ts";
import type { AdapterConfig, CausalLM } from "../../models/index.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { Administration } from "../../serve/administration.ts";
import { createServer, ModelPool, type Server } from "../../serve/index.ts";
import { CacheBudget, cacheNeed, loadInto } from "../../serve/loading.ts";
import { loadAdapterInto } from "../../serve/lora.ts";
import { Tokenizer, trainBpe } from "../../tokenizer/index.ts";
import { storyCorpus } from "../../train/data/index.ts";
import { send } from "../serve_fake.ts";
import { writeAdapter } from "./tiny_adapters.ts";

const stories = [...storyCorpus({ seed: 5, stories: 40 })];
const tokenizer = new Tokenizer(trainBpe(stories, { vocab_size: 400, special_tokens: ["<|endoftext|>"] }));
const settings = { dtype: "f32", maxSequences: 8 } as const;

const makeModel = (hidden_size = 32) =>
  new LlamaForCausalLM(
    tinyllmConfig({
      ...{ vocab_size: tokenizer.vocabSize, hidden_size, intermediate_size: 88, num_hidden_layers: 2 },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128 },
      initializer_range: 0.3,
    }),
  ).init(11);

/** A real base with adapters, behind a real socket, and folders from which more may be loaded. */
export class AdapterServer {
  readonly folder = mkdtempSync(join(tmpdir(), "kiln-adapters-"));
  readonly inside = join(this.folder, "adapters");
  readonly base = join(this.folder, "base");
  readonly models = new ModelPool();
  readonly tokenizer = tokenizer;
  #server: Server | null = null;
  #url = "";

  /** Writes `configs` as folders of PEFT, and serves those of `served` from the start. */
  async open(configs: Record<string, Partial<AdapterConfig>>, served: readonly string[]): Promise<void> {
    const { models, inside, base } = this;
    mkdirSync(inside);
    const model = makeModel();
    await model.savePretrained(base, tokenizer);
    for (const [name, config] of Object.entries(configs)) await writeAdapter(model, config, inside, name);
    const tensors = await readTensors(model.namedParameters());
    await writeGgufModel(join(this.folder, "base.gguf"), model, tensors, tokenizer, {
      dtype: "f32",
      name: "base",
    });
    model.dispose();
    const budget = new CacheBudget(2 * (await cacheNeed(base, settings)));
    await this.#loadBase(budget, "base", base);
    for (const name of served) await loadAdapterInto(models, { name, path: join(inside, name) });
    const administration = new Administration({ models, settings, budget, folders: [inside] });
    this.#server = createServer({ models, administration, adminKey: "root", apiKey: "user" });
    this.#url = await this.#server.listen({ port: 0 });
  }

  async #loadBase(budget: CacheBudget, name: string, path: string): Promise<void> {
    budget.take(name, (await cacheNeed(path, settings)) / 2);
    await loadInto(this.models, { name, aliases: [], path }, settings, budget.of(name));
  }

  /** Another base, of a GGUF file. */
  loadGguf(name: string): Promise<void> {
    return this.#loadBase(new CacheBudget(2 ** 24), name, join(this.folder, "base.gguf"));
  }

  /** Writes an adapter for a model of another width, or one whose values are others; returns its folder. */
  async write(name: string, config: Partial<AdapterConfig>, width?: number): Promise<string> {
    const model: CausalLM = makeModel(width);
    const path = await writeAdapter(model, config, this.inside, name);
    model.dispose();
    return path;
  }

  async close(): Promise<void> {
    await this.#server?.close(0);
    rmSync(this.folder, { recursive: true });
  }

  post(path: string, json: unknown, key = "root") {
    return send(`${this.#url}${path}`, { json, headers: { authorization: `Bearer ${key}` } });
  }

  get(path: string) {
    return send(`${this.#url}${path}`, { headers: { authorization: "Bearer user" } });
  }

  /** Resolves when a sequence runs. */
  async busy(): Promise<void> {
    while (this.#server!.engine.stats().running === 0) await new Promise((resolve) => setImmediate(resolve));
  }

  load(lora_name: string, lora_path = lora_name, more: object = {}, key?: string) {
    return this.post("/v1/load_lora_adapter", { lora_name, lora_path, ...more }, key);
  }

  unload(lora_name: string, key?: string) {
    return this.post("/v1/unload_lora_adapter", { lora_name }, key);
  }

  readonly #answers = new Map<string, unknown>();

  /**
   * Loads adapters and unloads them while they and the base are asked, so often. Every answer that there is must be the whole
   * one of its adapter.
   */
  async comeAndGo(adapters: readonly string[], cycles: number): Promise<void> {
    for (const name of ["base", ...adapters]) {
      if (this.#answers.has(name)) continue;
      if (name !== "base") expect((await this.load(name)).status).toBe(200);
      this.#answers.set(name, await this.ask(name));
      if (name !== "base") expect((await this.unload(name)).status).toBe(200);
    }
    let isRunning = true;
    const traffic = (async () => {
      while (isRunning) expect(await this.ask("base")).toEqual(this.#answers.get("base"));
    })();
    for (let i = 0; i < cycles; i++) {
      for (const name of adapters) expect((await this.load(name)).status).toBe(200);
      const answers = adapters.map((name) => this.ask(name));
      if (i % 2 === 0) await this.busy();
      const gone = adapters.map((name) => this.unload(name));
      for (const [at, name] of adapters.entries()) {
        const answer = await answers[at];
        if (answer.status === 200) expect(answer).toEqual(this.#answers.get(name));
        else expect(answer.error).toMatchObject({ code: "model_not_found" });
        expect((await gone[at]).status).toBe(200);
      }
    }
    isRunning = false;
    await traffic;
  }

  /** A greedy answer, as text and log probabilities. */
  async ask(model: string, max_tokens = 12, prompt = stories[0].slice(0, 60)) {
    const json = { model, prompt, max_tokens, temperature: 0, ignore_eos: true, logprobs: 1 };
    const { status, body } = await this.post("/v1/completions", json, "user");
    const [choice] = body.choices ?? [];
    return {
      status,
      text: choice?.text as string,
      logprobs: choice?.logprobs.token_logprobs as number[],
      error: body.error,
    };
  }
}
