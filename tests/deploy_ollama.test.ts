import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { setDevice } from "../core/device.ts";
import type { KilnError } from "../core/errors.ts";
import { openDevice } from "../kernels/index.ts";
import { loadAdapted } from "../models/formats/peft_directory.ts";
import { addAdapter, saveAdapter, useAdapter } from "../models/index.ts";
import { normalInit, type Parameter } from "../nn/index.ts";
import { TextGenerator } from "../serve/text/text_generator.ts";
import { Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";
import { type DeployOptions, deployToOllama } from "../train/deploy/ollama.ts";
import { type Answer, FakeOllama } from "./support/fake_ollama.ts";
import { tinyLlama } from "./support/tiny_decoders.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-ollama-"));
const place = (name: string) => join(folder, name);
const tokenizer = new Tokenizer(
  trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 280, special_tokens: ["<|end|>"] }),
  { tokenizer_config: { eos_token: "<|end|>" } },
);

/** Runs the files that were sent by kiln itself: what is tested here is that they, and the requests, arrive. */
const run: Answer = async ({ model, adapter }, prompt, options) => {
  const { temperature, num_predict, repeat_penalty } = options;
  if (repeat_penalty !== 1) throw new Error("Ollama would make repetitions less likely");
  const loaded = await loadAdapted(model, adapter ?? undefined);
  const generator = new TextGenerator(loaded.model, loaded.tokenizer, { maxSequences: 1 });
  const text = await generator.complete(prompt, {
    temperature: temperature as number,
    max_tokens: num_predict as number,
  });
  generator.close();
  loaded.model.dispose();
  return text;
};

let ollama: FakeOllama;
let answer: Answer;
let url: string;
const said: string[] = [];
const deploy = (path: string, more: Partial<DeployOptions> = {}) =>
  deployToOllama(path, {
    ...{ name: "poet", url, dtype: "f16" },
    makeGenerator: (model, own) => new TextGenerator(model, own),
    say: (line) => void said.push(line),
    ...more,
  });
const failure = async (work: Promise<unknown>): Promise<KilnError> =>
  work.then(
    () => expect.unreachable("nothing was thrown"),
    (error) => error,
  );

beforeAll(async () => {
  await openDevice();
  const base = tinyLlama({ vocab_size: 280, tie_word_embeddings: false });
  await base.savePretrained(place("base"), tokenizer);
  const adapter = addAdapter(base, { base_model_name_or_path: place("base"), r: 2 });
  useAdapter(base, "default");
  // B is zeros: a fresh adapter changes nothing.
  await saveAdapter(place("fresh"), base);
  for (const [name, parameter] of adapter.parameters()) normalInit(parameter as Parameter, 0.5, 3, name);
  await saveAdapter(place("adapter"), base);
});
afterAll(() => {
  setDevice(null);
  rmSync(folder, { recursive: true });
});
let count = 0;
beforeEach(async () => {
  answer = run;
  said.length = 0;
  ollama = await FakeOllama.start(place(`blobs-${count++}`), (...call) => answer(...call));
  url = ollama.url;
});
afterEach(() => ollama.close());

describe("a deployment to Ollama", () => {
  it("sends the model once, makes it, and has both write the same", async () => {
    const done = await deploy(place("base"));
    expect(done.answers.map(({ prompt }) => prompt)).toHaveLength(3);
    expect(done.answers.every(({ text }) => text.length > 0)).toBe(true);
    expect([...ollama.models.keys()]).toEqual(["poet"]);
    expect(ollama.models.get("poet")!.request).toMatchObject({
      ...{ template: "{{ .Prompt }}", stream: true },
      parameters: { stop: expect.arrayContaining(["<|end|>"]), num_ctx: 512 },
    });
    expect(said).toEqual([
      `Ollama 0.0.0-fake at ${url}`,
      "model.gguf: sent",
      ...["  parsing GGUF", "  writing manifest", "  success"],
    ]);
    await deploy(place("base"), { name: "again" });
    expect(ollama.requests.filter((request) => request === "POST /api/blobs/")).toHaveLength(1);
    expect([...ollama.models.keys()]).toEqual(["poet", "again"]);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith("kiln-deploy-"))).toEqual([]);
  });

  it("gives a chat model its turns and stops", async () => {
    const model = tinyLlama({ vocab_size: 284, tie_word_embeddings: false });
    const chat = withChatTemplate(tokenizer);
    await model.savePretrained(place("chat"), chat);
    await deploy(place("chat"), { dtype: "q8_0" });
    const { template, parameters } = ollama.models.get("poet")!.request as Record<string, never>;
    expect(template).toMatch("{{- range .Messages }}<|im_start|>");
    expect((parameters as { stop: string[] }).stop).toContain("<|im_end|>");
  });

  it("of an adapter sends base and adapter, and wants to see that the adapter acts", async () => {
    await deploy(place("adapter"));
    expect(ollama.models.get("poet")!.adapter).not.toBeNull();
    // A server that takes the adapter and ignores it.
    answer = (model, ...rest) => run({ ...model, adapter: null }, ...rest);
    const ignored = await failure(deploy(place("adapter"), { name: "other" }));
    expect(ignored.code).toBe("deploy_differs");
    expect(ignored.message).toMatch(
      /^Ollama continues "Once upon a time" with .*, kiln with .* from the same file/,
    );
    expect([...ollama.models.keys()]).toEqual(["poet"]);
    answer = run;
    const fresh = await failure(deploy(place("fresh")));
    expect([fresh.code, fresh.message.slice(0, 32)]).toEqual([
      "deploy_differs",
      "the adapter changes none of the ",
    ]);
  });
});

describe("where something goes wrong, the model that was there stays, and nothing else", () => {
  const broken: [string, string, (response: import("node:http").ServerResponse) => void, RegExp][] = [
    ["no Ollama", "GET /api/version", (r) => r.end("<html>"), /no JSON: <html>/],
    ["an upload that breaks off", "POST /api/blobs/", (r) => r.destroy(), /the connection failed/],
    [
      "a disk that is full",
      "POST /api/blobs/",
      (r) => r.writeHead(500).end('{"error":"no space left"}'),
      /with 500: no space left/,
    ],
    [
      "an error in the stream",
      "POST /api/create",
      (r) => r.end('{"status":"parsing GGUF"}\n{"error":"unsupported architecture"}\n'),
      /could not make the model: unsupported architecture/,
    ],
    [
      "a stream that ends early",
      "POST /api/create",
      (r) => r.end('{"status":"parsing GGUF"}\n'),
      /stopped making the model after "parsing GGUF"/,
    ],
    [
      "a stream that breaks off",
      "POST /api/create",
      (r) => r.write('{"status":"parsing', () => setTimeout(() => r.destroy(), 20)),
      /broke off/,
    ],
    [
      "a model that does not run",
      "POST /api/generate",
      (r) => r.writeHead(500).end('{"error":"llama runner has terminated"}'),
      /runner has terminated/,
    ],
    ["an answer without text", "POST /api/generate", (r) => r.end('{"done":true}'), /without a response/],
  ];
  it.each(broken)("%s", async (_, request, fault, message) => {
    ollama.models.set("poet", { model: "before", adapter: null, request: {} });
    ollama.faults.set(request, fault);
    const error = await failure(deploy(place("base")));
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(url);
    expect(error.code).toBe("ollama_failed");
    expect([...ollama.models]).toEqual([["poet", { model: "before", adapter: null, request: {} }]]);
  });

  it("answers that differ in one token", async () => {
    ollama.models.set("poet", { model: "before", adapter: null, request: {} });
    answer = async (...call) => `${await run(...call)}.`;
    expect((await failure(deploy(place("base")))).code).toBe("deploy_differs");
    expect(ollama.models.get("poet")!.model).toBe("before");
    expect(ollama.requests.at(-1)).toBe("DELETE /api/delete");
  });

  it("nobody there, and a person who stops it", async () => {
    ollama.close();
    expect((await failure(deploy(place("base")))).message).toMatch("start it with `ollama serve`");
    const stopped = await failure(deploy(place("base"), { signal: AbortSignal.abort() }));
    expect(stopped.exitCode).toBe(130);
  });
});
