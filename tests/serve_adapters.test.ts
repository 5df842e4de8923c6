import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { openDevice } from "../kernels/index.ts";
import { loadAdapted } from "../models/formats/peft_directory.ts";
import { PagedDecoder } from "../models/paged_decoder.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { Tokenizer, withChatTemplate } from "../tokenizer/index.ts";
import { AdapterServer } from "./support/adapter_server.ts";
import { llamaAdapters } from "./support/tiny_adapters.ts";

/** Adapters as models of a server, which come and go while it answers. */
const { attention, odd, stable, patterns } = llamaAdapters;
const on = new AdapterServer();
let gpu: WebGpuDevice;

beforeAll(async () => {
  gpu = await openDevice();
  vi.spyOn(process.stderr, "write").mockReturnValue(true);
  await on.open({ attention, odd, stable, patterns }, ["attention", "stable"]);
});
afterAll(async () => {
  await on.close();
  vi.restoreAllMocks();
});

describe("an adapter", () => {
  it("is listed with its model and its folder", async () => {
    const { data } = (await on.get("/v1/models")).body as { data: Record<string, unknown>[] };
    expect(data.map(({ id, root, parent }) => [id, root, parent])).toEqual([
      ["base", "base", null],
      ["attention", join(on.inside, "attention"), "base"],
      ["stable", join(on.inside, "stable"), "base"],
    ]);
  });

  it("answers as the model does with it attached, and the base as without any", async () => {
    const prompt = "Once upon a time";
    const texts = new Set<string>();
    for (const name of ["attention", "stable", null]) {
      const path = name === null ? undefined : join(on.inside, name);
      const { model, tokenizer } = await loadAdapted(on.base, path);
      const generator = new TextGenerator(model, tokenizer);
      const options = { temperature: 0, max_tokens: 20, ignore_eos: true };
      const [[{ text }]] = await generator.generate([prompt], options);
      generator.close();
      model.dispose();
      expect((await on.ask(name ?? "base", 20, prompt)).text).toBe(text);
      texts.add(text);
    }
    expect(texts.size).toBe(3);
  });

  it("has its own tokenizer and chat where its folder brings them, if its model has the tokens", async () => {
    const path = await on.write("chat", attention);
    const talk = (model: string) =>
      on.post("/v1/chat/completions", { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 4 });
    const withChat = withChatTemplate(on.tokenizer);
    withChat.save(path);
    const refused = await on.load("chat");
    expect(refused.body.error.message).toMatch(/has 402 tokens and its model 400: .*merge it into its base/);
    const { json, config } = on.tokenizer;
    const chatTemplate = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}";
    new Tokenizer(json, { tokenizer_config: { ...config, chat_template: chatTemplate } }).save(path);
    expect((await on.load("chat")).status).toBe(200);
    expect((await talk("chat")).status).toBe(200);
    expect((await talk("base")).body.error.message).toMatch(/chat template/);
    await on.unload("chat");
  });

  it("gives the bits that it gives alone beside others and the base, from one cache", async () => {
    const names = ["base", "attention", "stable"];
    const alone = new Map<string, unknown>();
    for (const name of names) alone.set(name, await on.ask(name));
    const many = Array.from({ length: 24 }, (_, i) => names[(i * 7) % 3]);
    const answers = await Promise.all(many.map((name) => on.ask(name)));
    expect(answers).toEqual(many.map((name) => alone.get(name)));
    const { text } = await on.get("/metrics");
    const counted = text.match(/^kiln:request_success_total\{.*\} \d+$/gm)!;
    // What runs on adapters counts as the model's.
    for (const line of counted) expect(line).toContain('model_name="base"');
  });
});

describe("adapters of a running server", () => {
  it("are loaded and unloaded with vLLM's answers, by the administrator alone", async () => {
    for (const key of ["user", "none"]) {
      expect((await on.load("odd", "odd", {}, key)).status).toBe(401);
      expect((await on.unload("attention", key)).status).toBe(401);
    }
    const loaded = await on.load("odd");
    expect([loaded.status, loaded.text]).toEqual([200, "Success: LoRA adapter 'odd' added successfully."]);
    const { text } = await on.ask("odd");
    expect(text).not.toBe((await on.ask("base")).text);
    const gone = await on.unload("odd");
    expect([gone.status, gone.text]).toEqual([200, "Success: LoRA adapter 'odd' removed successfully."]);
    expect((await on.ask("odd")).error).toMatchObject({ code: "model_not_found" });
  });

  it("are refused with the reason, and nothing is changed", async () => {
    await on.write("wide", { r: 4 }, 64);
    await on.write("large", { r: 65 });
    await on.write("dora", { use_dora: true });
    const before = gpu.bytesInUse;
    const refused: [string, string, number, string | RegExp][] = [
      ["attention", "odd", 400, "name_taken"],
      ["base", "odd", 400, "name_taken"],
      ["new", "../base", 400, "path_not_allowed"],
      ["new", on.base, 400, "path_not_allowed"],
      ["new", "nothing", 400, "path_not_allowed"],
      [
        "new",
        "wide",
        400,
        /is for another base: \S+\.q_proj\.lora_A\.weight is \[4, 64\], .* need \[4, 32\]/,
      ],
      ["new", "large", 400, /rank 65 at .*above the 64 of --max-lora-rank/],
      ["new", "dora", 400, /DoRA's magnitudes, which cannot be mixed .* merge it/],
    ];
    for (const [name, path, status, why] of refused) {
      const answer = await on.load(name, path);
      expect(answer.status, path).toBe(status);
      if (typeof why === "string") expect(answer.body.error.code).toBe(why);
      else expect(answer.body.error.message).toMatch(why);
    }
    expect((await on.load("../x", "odd")).body.error.param).toBe("lora_name");
    expect((await on.load("new", "odd", { base_model_name: "none" })).status).toBe(404);
    const other = await on.load("new", "odd", { base_model_name: "attention" });
    expect(other.body.error.message).toMatch(/`attention` takes no adapters/);
    for (const name of ["none", "base"]) expect((await on.unload(name)).status).toBe(404);
    const failing = vi
      .spyOn(PagedDecoder.prototype, "prepareAdapted")
      .mockRejectedValue(new Error("no kernel"));
    // More often than there may be adapters.
    for (let i = 0; i < 17; i++) expect((await on.load("new", "odd")).status).toBe(500);
    failing.mockRestore();
    expect(gpu.bytesInUse).toBe(before);
  });

  it("of one name are told apart: what runs ends on the old weights, and nothing cached is the new one's", async () => {
    const old = await on.ask("attention", 60);
    const running = on.ask("attention", 60);
    await on.busy();
    const unloading = on.unload("attention");
    while (on.models.get("attention")) await new Promise((resolve) => setTimeout(resolve, 1));
    expect((await on.ask("attention")).status).toBe(404);
    expect(await running).toEqual(old);
    expect((await unloading).status).toBe(200);
    expect((await on.load("attention", "patterns")).status).toBe(200);
    const fresh = await on.ask("attention", 60);
    expect(fresh.text).not.toBe(old.text);
    await on.load("again", "patterns");
    expect(await on.ask("again", 60)).toEqual(fresh);
    await on.unload("again");
  });

  it("F32: come and go under traffic and leave no memory behind", async () => {
    const sizes: number[] = [];
    // Until every size of step has been compiled; a leak would grow for ever.
    const hasSettled = () => sizes.length > 3 && new Set(sizes.slice(-3)).size === 1;
    while (!hasSettled() && sizes.length < 20) {
      await on.comeAndGo(["odd", "patterns"], 2);
      sizes.push(gpu.bytesInUse);
    }
    expect(hasSettled(), sizes.join()).toBe(true);
  });

  it("belong to the model that they name, a GGUF file too, and leave with it", async () => {
    await on.loadGguf("gguf");
    const unclear = await on.load("odd");
    expect(unclear.body.error.message).toMatch(/base_model_name: choose one of base, gguf/);
    expect((await on.load("odd", "odd", { base_model_name: "gguf" })).status).toBe(200);
    expect((await on.load("same", "odd", { base_model_name: "base" })).status).toBe(200);
    expect((await on.ask("odd")).text).toBe((await on.ask("same")).text);
    expect((await on.post("/v1/models/unload", { model: "gguf" })).status).toBe(200);
    expect(on.models.get("odd")).toBeUndefined();
    await on.unload("same");
  });
});
