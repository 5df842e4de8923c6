import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import { openDevice } from "../kernels/index.ts";
import { addAdapter, loadModel, saveAdapter, useAdapter } from "../models/index.ts";
import { normalInit, type Parameter } from "../nn/index.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { deployToOllama } from "../train/deploy/ollama.ts";
import { type Answer, FakeOllama } from "./support/fake_ollama.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const entry = join(root, "node_modules/node-llama-cpp/dist/index.js");
const stories = fileURLToPath(new URL("../../shared/data/models/stories260K-hf", import.meta.url));
const hasAll =
  existsSync(entry) &&
  existsSync(join(root, "node_modules/@node-llama-cpp/linux-x64")) &&
  existsSync(stories);
if (!hasAll) console.log(`skipped: needs node-llama-cpp on Linux x64, and ${stories}`);

const folder = mkdtempSync(join(tmpdir(), "kiln-ollama-slow-"));
let ollama: FakeOllama;

/** The files run in llama.cpp, which is what Ollama runs them in; the protocol around it is the fake server's. */
async function llamaCpp(): Promise<Answer> {
  const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
  const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
  return async ({ model: modelPath, adapter }, prompt, { num_predict }) => {
    const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
    const context = await model.createContext({
      contextSize: 256,
      threads: 1,
      ...(adapter && { lora: adapter }),
    });
    const ids = [...model.tokenize(prompt, false)];
    if (model.tokens.shouldPrependBosToken) ids.unshift(model.tokens.bos);
    const found: number[] = [];
    for await (const token of context.getSequence().evaluate(ids, { temperature: 0 }))
      if (found.push(token) === num_predict) break;
    // The space before the first word is part of the answer.
    const text = model.detokenize([...ids, ...found], false).slice(model.detokenize(ids, false).length);
    await context.dispose();
    await model.dispose();
    return text;
  };
}

beforeAll(async () => {
  if (!hasAll) return;
  await openDevice();
  ollama = await FakeOllama.start(join(folder, "blobs"), await llamaCpp());
});
afterAll(() => {
  ollama?.close();
  setDevice(null);
  rmSync(folder, { recursive: true });
});

const deploy = (path: string, name: string, dtype: "f16" | "q8_0") =>
  deployToOllama(path, {
    ...{ name, url: ollama.url, dtype, say: () => {} },
    makeGenerator: (model, tokenizer) => new TextGenerator(model, tokenizer),
  });

describe.runIf(hasAll)("a deployment whose files run in llama.cpp", () => {
  it.each(["f16", "q8_0"] as const)("writes the same 16 tokens after each prompt, in %s", async (dtype) => {
    const { answers } = await deploy(stories, `stories-${dtype}`, dtype);
    expect(answers[0].text).toMatch(/^, there was a little girl named/);
    expect(ollama.models.has(`stories-${dtype}`)).toBe(true);
  });

  it("of an adapter too", async () => {
    const { model } = await loadModel(stories);
    const adapter = addAdapter(model, { base_model_name_or_path: stories, r: 4 });
    useAdapter(model, "default");
    for (const [name, parameter] of adapter.parameters()) normalInit(parameter as Parameter, 0.2, 3, name);
    await saveAdapter(join(folder, "adapter"), model);
    const { answers } = await deploy(join(folder, "adapter"), "adapted", "f16");
    expect(answers[0].text).not.toMatch(/^, there was a little girl named/);
    expect(ollama.models.get("adapted")!.adapter).not.toBeNull();
  });
});
