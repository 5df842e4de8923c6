import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import type { AnyModel } from "../models/architectures.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { Administration } from "../serve/administration.ts";
import { createServer, ModelPool, type Server } from "../serve/index.ts";
import { CacheBudget, cacheNeed, loadInto } from "../serve/loading.ts";
import { send } from "./serve_fake.ts";
import { randomBert, wordPieces } from "./support/word_pieces.ts";

/** Real models that come and go behind a real socket. */
const folder = mkdtempSync(join(tmpdir(), "kiln-admin-"));
const inside = join(folder, "models");
const tokenizer = wordPieces();
const settings = { dtype: "f32", maxSequences: 4 } as const;
let gpu: WebGpuDevice;
let models: ModelPool;
let budget: CacheBudget;
let server: Server;
let url: string;
const said: string[] = [];

/** A model whose answers its seed decides. */
async function saveWriter(path: string, seed: number): Promise<void> {
  const sizes = { hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1, initializer_range: 0.8 };
  const config = tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes, max_position_embeddings: 64 });
  await save(new LlamaForCausalLM(config).init(seed), path);
}

/** Saves a model and frees it, so that no garbage counts as in use. */
async function save(model: AnyModel, path: string): Promise<void> {
  await model.savePretrained(path, tokenizer);
  model.dispose();
}

beforeAll(async () => {
  gpu = await openDevice();
  vi.spyOn(process.stderr, "write").mockImplementation((text) => said.push(String(text)) > 0);
  mkdirSync(inside);
  await saveWriter(join(inside, "one"), 1);
  await saveWriter(join(inside, "two"), 2);
  await saveWriter(join(folder, "outside"), 3);
  await save(randomBert("Model"), join(inside, "encoder"));
  symlinkSync(join(folder, "outside"), join(inside, "link"));
  models = new ModelPool();
  const need = await cacheNeed(join(inside, "one"), settings);
  budget = new CacheBudget(3 * need);
  budget.share(["one"], [need], 1);
  const source = { name: "one", aliases: ["chat"], path: join(inside, "one") };
  await loadInto(models, source, settings, budget.of("one"));
  const administration = new Administration({ models, settings, budget, folders: [inside] });
  server = createServer({ models, administration, adminKey: "root", apiKey: "user" });
  url = await server.listen({ port: 0 });
});
afterAll(async () => {
  await server.close(0);
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

const post = (path: string, json: unknown, key = "root") =>
  send(`${url}${path}`, { json, headers: { authorization: `Bearer ${key}` } });
const load = (json: object, key?: string) => post("/v1/models/load", json, key);
const ask = async (model: string, max_tokens = 6) => {
  const { status, body } = await post(
    "/v1/completions",
    { model, prompt: "the cat", max_tokens, temperature: 0 },
    "user",
  );
  return { status, text: body.choices?.[0].text as string, error: body.error };
};

describe("administration", () => {
  it("needs its own key, which is good for everything else too", async () => {
    const routes: [string, object][] = [
      ["/v1/models/load", { model: "two", path: "two" }],
      ["/v1/models/unload", { model: "one" }],
      ["/v1/aliases", { alias: "x", model: "one" }],
    ];
    for (const [path, json] of routes) {
      expect((await post(path, json, "user")).status).toBe(401);
      expect((await send(`${url}${path}`, { json })).status).toBe(401);
    }
    expect((await post("/v1/completions", { model: "one", prompt: "a" })).status).toBe(200);
    const closed = createServer({ models });
    const there = await closed.listen({ port: 0 });
    for (const [path, json] of routes) {
      const { status, body } = await send(`${there}${path}`, { json });
      expect([status, body.error.code]).toEqual([403, "administration_off"]);
    }
    expect(() => createServer({ models, adminKey: "" })).toThrow("visible ASCII");
  });

  it("F23: loads models below its folders, and touches nothing else", async () => {
    const paths = [
      ...[
        "../outside",
        join(folder, "outside"),
        "link",
        "one/../../outside",
        "/etc",
        "..",
        ".",
        "",
        "nothing",
      ],
      ...["one\0", "..%2foutside", "..\\outside", "x".repeat(4000), "/"],
    ];
    for (const path of paths) {
      const { status, body } = await load({ model: "new", path });
      expect([path, status]).toEqual([path, 400]);
      if (path !== "") expect(body.error.code).toBe("path_not_allowed");
    }
    for (const model of ["../x", "/x", "x/../y", "x y", "x\0", "", "é".repeat(300)])
      expect((await load({ model, path: "two" })).body.error.param).toBe("model");
    expect([...models].map(([name]) => name)).toEqual(["one", "chat"]);
  });

  it("says why a model cannot be loaded, and is left as it was", async () => {
    const before = gpu.bytesInUse;
    expect((await load({ model: "chat", path: "two" })).body.error).toMatchObject({ code: "name_taken" });
    expect((await load({ model: "a", path: "two", aliases: ["one"] })).status).toBe(409);
    expect((await post("/v1/models/unload", { model: "none" })).status).toBe(404);
    expect((await post("/v1/aliases", { alias: "x", model: "none" })).status).toBe(404);
    expect((await post("/v1/aliases", { alias: "one", model: "one" })).status).toBe(409);
    mkdirSync(join(inside, "empty"));
    const { status, body } = await load({ model: "new", path: "empty" });
    expect([status, body.error.message]).toEqual([400, expect.stringMatching(/config\.json/)]);
    cpSync(join(inside, "two"), join(inside, "cut"), { recursive: true });
    for (const text of ["{}", '{"model": {', null]) {
      const file = join(inside, "cut", "tokenizer.json");
      if (text === null) rmSync(file);
      else writeFileSync(file, text);
      const refused = await load({ model: "new", path: "cut" });
      expect([refused.status, refused.body.error.message]).toEqual([400, expect.stringMatching(/tokenizer/)]);
    }
    expect([gpu.bytesInUse, budget.of("new")]).toEqual([before, 0]);
  });

  it("moves a name from one model to another while requests run, and none is lost", async () => {
    const answers = { one: (await ask("one", 20)).text, two: "" };
    let running = true;
    const seen: string[] = [];
    const traffic = Array.from({ length: 4 }, async () => {
      while (running) {
        const { status, text, error } = await ask("chat", 20);
        expect([status, error]).toEqual([200, undefined]);
        seen.push(text);
      }
    });
    const loaded = await load({ model: "org/two", path: "two", aliases: ["second"] });
    expect(loaded.body).toMatchObject({
      id: "org/two",
      root: "org/two",
      task: "generate",
      max_model_len: 64,
    });
    answers.two = (await ask("second", 20)).text;
    expect(answers.two).not.toBe(answers.one);
    await post("/v1/aliases", { alias: "chat", model: "org/two" });
    const unloaded = await post("/v1/models/unload", { model: "one" });
    expect(unloaded.body).toEqual({ model: "one", aliases: [], unloaded: true });
    const after = seen.length;
    while (seen.length < after + 8) await new Promise((resolve) => setTimeout(resolve, 5));
    running = false;
    await Promise.all(traffic);
    expect(new Set(seen)).toEqual(new Set(Object.values(answers)));
    expect(new Set(seen.slice(after + 4))).toEqual(new Set([answers.two]));
    expect((await ask("one")).error).toMatchObject({ code: "model_not_found" });
    expect(await ask("chat", 20)).toMatchObject({ text: answers.two });
  });

  it("lets a stream end on the model that it began on, and waits for it", async () => {
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer user" },
      body: JSON.stringify({
        model: "org/two",
        prompt: "the",
        max_tokens: 50,
        ignore_eos: true,
        stream: true,
      }),
    });
    const refused = await post("/v1/models/unload", { model: "chat" });
    expect([refused.status, refused.body.error.code]).toEqual([400, "is_alias"]);
    expect(refused.body.error.message).toContain("`chat` is an alias of `org/two`: unload that");
    const unloading = post("/v1/models/unload", { model: "org/two" });
    const text = await response.text();
    expect(text).toContain("data: [DONE]");
    expect((await unloading).body).toEqual({ model: "org/two", aliases: ["chat", "second"], unloaded: true });
    expect([...models]).toEqual([]);
    expect((await load({ model: "one", path: "one" })).status).toBe(200);
  });

  it("gives a model's memory back, twenty times, of the device and of the budget", async () => {
    const before = gpu.bytesInUse;
    const sizes: number[] = [];
    for (let i = 0; i < 20; i++) {
      for (const path of ["two", "encoder"]) {
        expect((await load({ model: `m${i}-${path}`, path })).status).toBe(200);
      }
      await ask(`m${i}-two`);
      await post("/v1/embeddings", { model: `m${i}-encoder`, input: "the cat" });
      for (const path of ["two", "encoder"])
        expect((await post("/v1/models/unload", { model: `m${i}-${path}` })).status).toBe(200);
      sizes.push(gpu.bytesInUse);
    }
    expect(new Set(sizes)).toEqual(new Set([before]));
    expect(gpu.pool.bytesReserved).toBe(gpu.bytesInUse);
    const names = [...models].map(([name]) => name);
    expect(names).toEqual(["one"]);
  });
});

describe("the budget of keys and values", () => {
  it("is shared evenly, but nobody gets more than it needs, and what is given back can be had again", () => {
    const all = new CacheBudget(100);
    all.share(["a", "b", "c"], [80, 10, 60], 0);
    expect(["a", "b", "c"].map((name) => all.of(name))).toEqual([45, 10, 45]);
    all.take("d", 5);
    expect(all.of("d")).toBe(0);
    all.give("a");
    all.take("d", 50);
    expect(all.of("d")).toBe(45);
    const spare = new CacheBudget(100);
    spare.share(["a"], [1000], 1);
    expect(spare.of("a")).toBe(50);
  });
});

describe("a device without enough memory", () => {
  it("F17: gets half the cache, or a quarter, and says so", async () => {
    const pool = new ModelPool();
    const roomy = { ...settings, maxSequences: 16 };
    const need = await cacheNeed(join(inside, "two"), roomy);
    const asked: number[] = [];
    const fits = vi.spyOn(gpu, "fits").mockImplementation(async (sizes) => {
      asked.push(sizes.reduce((a, b) => a + b, 0));
      return asked.length > 2;
    });
    const source = { name: "two", aliases: [], path: join(inside, "two") };
    const model = await loadInto(pool, source, roomy, need);
    fits.mockRestore();
    expect(asked[0]).toBe(need);
    expect(asked.length).toBe(3);
    expect(asked[2]).toBeLessThanOrEqual(need / 4);
    expect(said.join("")).toMatch(/no memory for \d+ MiB of keys and values: they get \d+ MiB/);
    if (model.kind === "text") expect(model.frontend.engine.runner.blockCount).toBe(16);
    await pool.remove("two");
  });

  it("F17: refuses a model in one line where there is no room for one answer, and keeps nothing of it", async () => {
    const before = gpu.bytesInUse;
    const fits = vi.spyOn(gpu, "fits").mockResolvedValue(false);
    const { status, body } = await load({ model: "two", path: "two" });
    fits.mockRestore();
    expect([status, body.error.code]).toEqual([503, "out_of_memory"]);
    expect(body.error.message).toMatch(
      /^the device has no memory for the keys and values of even one answer: /,
    );
    expect(gpu.bytesInUse).toBe(before);
    expect((await load({ model: "two", path: "two" })).status).toBe(200);
  });

  it("is asked in a way that harms no work of others", async () => {
    expect(await gpu.fits([1024, 4096])).toBe(true);
    const create = vi.spyOn(gpu.gpu, "createBuffer").mockImplementation(function (
      this: GPUDevice,
      descriptor,
    ) {
      return GPUDevice.prototype.createBuffer.call(gpu.gpu, { ...descriptor, size: 2 ** 52 });
    });
    expect(await gpu.fits([1024])).toBe(false);
    create.mockRestore();
    await gpu.sync();
  });
});

it("puts a version of the registry, wherever it is, in another's place", async () => {
  const pool = new ModelPool();
  const need = await cacheNeed(join(inside, "one"), settings);
  const room = new CacheBudget(2 * need);
  const own = new Administration({ models: pool, settings, budget: room, folders: [] });
  room.share(["v@1"], [need], 1);
  const source = { name: "v@1", aliases: ["v@prod"], path: join(inside, "one") };
  const first = await loadInto(pool, source, settings, room.of("v@1"));
  const second = await own.replace("v@1", { name: "v@2", aliases: [], path: join(folder, "outside") });
  expect([...pool]).toEqual([
    ["v@1", first],
    ["v@prod", second],
    ["v@2", second],
  ]);
  // One that is there is not loaded again; an alias is no name for another.
  expect(await own.replace("v@2", { name: "v@2", aliases: [], path: "" })).toBe(second);
  await expect(own.replace("v@2", { name: "v@prod", aliases: [], path: "" })).rejects.toThrow(/already/);
  await own.unload("v@1");
  // There is room for the next one again.
  await own.replace("v@2", { name: "v@3", aliases: [], path: join(inside, "two") });
  expect(pool.get("v@prod")!.name).toBe("v@3");
  await own.unload("v@2");
  await own.unload("v@3");
  expect([...pool]).toEqual([]);
});
