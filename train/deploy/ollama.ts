import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { KilnError } from "../../core/errors.ts";
import type { GgufDtype } from "../../models/formats/gguf_model.ts";
import { loadModel } from "../../models/formats/hf_directory.ts";
import { loadAdapted } from "../../models/formats/peft_directory.ts";
import type { MakeGenerator } from "../recipe.ts";
import { exportModel, sourceOf } from "./export.ts";
import { turnSettings } from "./modelfile.ts";
import { OllamaClient } from "./ollama_client.ts";

export interface DeployOptions {
  /** What the model is called there. */
  name: string;
  /** Where Ollama listens. */
  url: string;
  dtype: Extract<GgufDtype, "f16" | "q8_0">;
  /** The model that an adapter is for, where the adapter does not name it. */
  base?: string | undefined;
  makeGenerator: MakeGenerator;
  /** Told how far it is. */
  say: (line: string) => void;
  signal?: AbortSignal;
}

export interface Deployment {
  name: string;
  url: string;
  /** Digests of the files. */
  model: string;
  adapter: string | null;
  /** What both wrote after each prompt. */
  answers: { prompt: string; text: string }[];
}

const prompts = ["Once upon a time", "The answer is", "1, 2, 3,"];
const tokens = 16;

/**
 * Gives a model, or an adapter with its base, to an Ollama server, and believes it only after Ollama wrote the same likeliest 16
 * tokens as kiln does with the same files, after 3 prompts; an adapter must change what its base writes. Until then the model has
 * another name there: one that the name had before stays where the new one fails. Throws a one-line KilnError: `ollama_failed` with
 * what the server said; `deploy_differs` where it answers otherwise.
 */
export async function deployToOllama(path: string, options: DeployOptions): Promise<Deployment> {
  const { name, url, dtype, say, signal } = options;
  const client = new OllamaClient(url, signal);
  say(`Ollama ${await client.version()} at ${url}`);
  const folder = await mkdtemp(join(tmpdir(), "kiln-deploy-"));
  try {
    const source = await sourceOf(path, "gguf", options.base);
    const files = { model: join(folder, "model.gguf"), adapter: source.base && join(folder, "adapter.gguf") };
    const limits = { to: "gguf", maxShardBytes: Number.POSITIVE_INFINITY } as const;
    await exportModel(source.base ?? source.path, { ...limits, dtype, out: files.model });
    if (files.adapter)
      await exportModel(source.path, { ...limits, dtype: "f16", base: source.base!, out: files.adapter });
    const ours = await ownAnswers(files, options.makeGenerator);
    const model = await sent(client, files.model, say);
    const adapter = files.adapter && (await sent(client, files.adapter, say));
    const trial = `${name.replace(/:[^/]*$/, "")}:kiln-trial-${process.pid}`;
    const { template, stops } = turnSettings(ours.tokenizer);
    const request = {
      ...{ model: trial, files: { "model.gguf": model } },
      ...(adapter && { adapters: { "adapter.gguf": adapter } }),
      ...(template !== null && { template }),
      parameters: { stop: stops, num_ctx: ours.contextLength },
    };
    let made = false;
    try {
      await client.create(request, (status) => say(`  ${status}`));
      made = true;
      for (const { prompt, text } of ours.answers)
        compare(prompt, text, await client.continuation(trial, prompt, tokens));
      await client.copy(trial, name);
    } finally {
      // By a client of its own: what was begun is taken away also after Ctrl-C.
      await new OllamaClient(url).delete(trial).catch(() => {
        if (made) say(`${trial} could not be removed there: ollama rm ${trial}`);
      });
    }
    return { name, url, model, adapter, answers: ours.answers };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function sent(client: OllamaClient, path: string, say: DeployOptions["say"]): Promise<string> {
  const { digest, sent } = await client.upload(path);
  say(`${basename(path)}: ${sent ? "sent" : "there already"}`);
  return digest;
}

/** What kiln writes with the files, and what it needs to know of them. @throws KilnError for an adapter that changes none of it. */
async function ownAnswers(files: { model: string; adapter: string | null }, makeGenerator: MakeGenerator) {
  const base = await loadModel(files.model);
  const contextLength = base.model.shape.max_position_embeddings;
  const plain = await greedy(base, makeGenerator);
  base.model.dispose();
  if (files.adapter === null) return { tokenizer: base.tokenizer, contextLength, answers: plain };
  const adapted = await loadAdapted(files.model, files.adapter);
  const answers = await greedy(adapted, makeGenerator);
  adapted.model.dispose();
  if (answers.every(({ text }, i) => text === plain[i].text)) {
    throw new KilnError(
      `the adapter changes none of the ${tokens} likeliest tokens after ${prompts.length} prompts, so nothing would show that Ollama applies it: train it further, or merge it with kiln export --to ollama`,
      { code: "deploy_differs" },
    );
  }
  return { tokenizer: base.tokenizer, contextLength, answers };
}

async function greedy(
  { model, tokenizer }: Awaited<ReturnType<typeof loadModel>>,
  makeGenerator: MakeGenerator,
) {
  const generator = makeGenerator(model, tokenizer);
  try {
    const written = await generator.generate(prompts, { temperature: 0, max_tokens: tokens });
    return prompts.map((prompt, i) => ({ prompt, text: written[i][0].text }));
  } finally {
    generator.close();
  }
}

function compare(prompt: string, ours: string, theirs: string): void {
  if (ours === theirs) return;
  const shown = (text: string) => JSON.stringify(text.slice(0, 80));
  throw new KilnError(
    `Ollama continues ${shown(prompt)} with ${shown(theirs)}, kiln with ${shown(ours)} from the same file: the model was removed there again`,
    { code: "deploy_differs" },
  );
}
