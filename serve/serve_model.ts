import { basename, dirname } from "node:path";
import { definedOnly } from "../core/defined_only.ts";
import { KilnError } from "../core/errors.ts";
import { say } from "../core/platform/command_line.ts";
import { readModelConfig, shapeOf } from "../models/architectures.ts";
import type { LoadedModel } from "../models/formats/hf_directory.ts";
import { contextLength, ModelRunner } from "./engine/runner.ts";
import { assertCanListen, createServer } from "./server.ts";

/** The options of `kiln serve`, as the command line gives them. */
export interface ServeFlags {
  port: number;
  host: string;
  apiKey?: string[];
  priorityKey?: string[];
  servedModelName?: string;
  maxModelLen?: number;
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  cacheMib?: number;
  dtype?: "f32" | "f16";
  strict?: boolean;
  allowedHost?: string[];
  allowedOrigin?: string[];
}

/** Refuses what cannot be served, before anything is loaded. @throws KilnError. */
export async function checkServing(path: string, flags: ServeFlags): Promise<void> {
  const { maxNumSeqs = 1, maxNumBatchedTokens = maxNumSeqs } = flags;
  if (maxNumSeqs > maxNumBatchedTokens) {
    throw new KilnError(
      `a step holds a token of each answer, so --max-num-seqs (${maxNumSeqs}) can be at most ` +
        `--max-num-batched-tokens (${maxNumBatchedTokens}): lower the one or raise the other`,
    );
  }
  contextLength(shapeOf(await readModelConfig(path)).max_position_embeddings, flags.maxModelLen);
  await assertCanListen(flags);
}

/** Serves until a signal; with `once`, sends itself one request and stops. */
export async function serveModel(loaded: LoadedModel, flags: ServeFlags, once = false): Promise<void> {
  const { maxModelLen, maxNumSeqs: maxSequences, cacheMib } = flags;
  const runner = new ModelRunner(
    loaded.model,
    definedOnly({ maxModelLen, maxSequences, cacheBytes: cacheMib && cacheMib * 2 ** 20 }),
  );
  const unknown = loaded.tokenizer.eosIds.filter((id) => !(id >= 0 && id < runner.vocabSize));
  if (unknown.length > 0) {
    say(
      `warning: no answer ends at eos_token_id ${unknown.join(", ")}, since the model has tokens 0 to ` +
        `${runner.vocabSize - 1} only; correct generation_config.json or config.json`,
    );
  }
  const modelName = flags.servedModelName ?? modelNameOf(loaded.directory);
  const server = createServer({
    runner,
    tokenizer: loaded.tokenizer,
    modelName,
    ...definedOnly({
      apiKey: flags.apiKey,
      strict: flags.strict,
      allowedHosts: [flags.host, ...(flags.allowedHost ?? [])],
      allowedOrigins: flags.allowedOrigin,
      priorityKeys: flags.priorityKey,
      maxSeqs: maxSequences,
      maxBatchedTokens: flags.maxNumBatchedTokens,
    }),
  });
  await runner.warmUp();
  const url = await server.listen({ host: flags.host, port: flags.port });
  process.stdout.write(connectionHelp(url, modelName));
  if (once) {
    await askOnce(url, modelName);
    await server.close();
    return;
  }
  await new Promise<void>((resolve) => {
    process.once("SIGINT", resolve);
    process.once("SIGTERM", resolve);
  });
  process.stderr.write("\nfinishing the running answers; once more to stop at once\n");
  process.once("SIGINT", () => process.exit(130));
  await server.close();
}

async function askOnce(url: string, model: string): Promise<void> {
  const body = JSON.stringify({
    model,
    prompt: "Once upon a time",
    max_tokens: 24,
    temperature: 0,
  });
  const answer = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}: ${await answer.text()}`);
  const { choices } = (await answer.json()) as { choices: { text: string }[] };
  process.stdout.write(`\nThe server answers: Once upon a time${choices[0].text}\n`);
}

/** The name of a model for clients: its own, or its run's where the folder is the `model` or `merged` of one. */
function modelNameOf(directory: string): string {
  const own = basename(directory).replace(/\.gguf$/i, "");
  return own === "model" || own === "merged" ? basename(dirname(directory)) || own : own;
}

/** Commands that talk to the server, ready to be pasted. */
function connectionHelp(url: string, model: string): string {
  const body = JSON.stringify({ model, prompt: "Once upon a time", max_tokens: 64 });
  return `
Serving ${model} at ${url}

  curl ${url}/v1/completions -H 'content-type: application/json' -d '${body}'

  import OpenAI from "openai";
  const client = new OpenAI({ baseURL: "${url}/v1", apiKey: "none" });
  const answer = await client.completions.create({ model: "${model}", prompt: "Once upon a time", max_tokens: 64 });

Ctrl-C stops it.
`;
}
