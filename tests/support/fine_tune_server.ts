import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect } from "vitest";
import { openDevice } from "../../kernels/index.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { Application } from "../../serve/app/application.ts";
import { localAnswers } from "../../serve/app/chat/local_answers.ts";
import { hostOf } from "../../serve/app/index.ts";
import type { JobEvent, JobInfo } from "../../serve/app/protocol.ts";
import type { UserMode } from "../../serve/app/user_mode.ts";
import { createServer, ModelPool, type Server } from "../../serve/index.ts";
import { loadInto } from "../../serve/loading.ts";
import { openBlobs, openStore } from "../../serve/store/index.ts";
import { Tokenizer, trainBpe } from "../../tokenizer/index.ts";
import { storyCorpus } from "../../train/data/index.ts";

const stories = [...storyCorpus({ seed: 5, stories: 40 })];
const eos = "<|endoftext|>";
const tokenizer = new Tokenizer(trainBpe(stories, { vocab_size: 400, special_tokens: [eos] }), {
  tokenizer_config: { eos_token: eos },
});
const shape = {
  ...{ vocab_size: tokenizer.vocabSize, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1 },
  ...{ num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 128 },
  initializer_range: 0.3,
};

/** A tiny real model behind a real server that keeps people's documents and adapts the model to each of them. */
export class FineTuneServer {
  readonly folder = mkdtempSync(path.join(tmpdir(), "kiln-finetune-"));
  readonly base = path.join(this.folder, "base");
  readonly env = {
    KILN_DATA_DIR: path.join(this.folder, "data"),
    KILN_REGISTRY: path.join(this.folder, "registry"),
  };
  application!: Application;
  url = "";
  #server!: Server;

  /** The environment must have `env` before. */
  async open(mode: UserMode = "single", maxAdapters = 16): Promise<this> {
    await openDevice();
    const model = new LlamaForCausalLM(tinyllmConfig(shape)).init(11);
    await model.savePretrained(this.base, tokenizer);
    model.dispose();
    const models = new ModelPool();
    const settings = { dtype: "f32", maxSequences: 8, maxAdapters } as const;
    await loadInto(
      models,
      { name: "base", aliases: [], path: path.relative("", this.base) },
      settings,
      2 ** 24,
    );
    const host = hostOf(mode, async () =>
      Application.open({
        ...{ mode, models, source: localAnswers(models), times: { flushMs: 5, detachedMs: 60_000 } },
        store: await openStore(`sqlite:${path.join(this.env.KILN_DATA_DIR, "kiln.db")}`),
        blobs: await openBlobs(`fs:${path.join(this.env.KILN_DATA_DIR, "blobs")}`),
      }),
    );
    this.#server = createServer({ models, application: host });
    this.url = await this.#server.listen({ port: 0 });
    this.application = await host.open();
    return this;
  }

  async close(): Promise<void> {
    await this.#server?.close(0);
    rmSync(this.folder, { recursive: true, force: true });
  }

  async ask(method: string, target: string, json?: unknown, headers: Record<string, string> = {}) {
    const type: Record<string, string> = json === undefined ? {} : { "content-type": "application/json" };
    const response = await fetch(this.url + target, {
      method,
      headers: { ...type, ...headers },
      ...(json === undefined ? {} : { body: JSON.stringify(json) }),
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json");
    return { status: response.status, text, body: isJson ? JSON.parse(text) : null };
  }

  /** Uploads a file by the seed's call, and waits until it is read. */
  async upload(user_id: string, name: string, content: string, headers: Record<string, string> = {}) {
    const form = new FormData();
    form.set("metadata", JSON.stringify({ user_id, data_type: "auto" }));
    form.set("file", new Blob([content]), name);
    const sent = await fetch(`${this.url}/api/upload`, { method: "POST", body: form, headers });
    const { documents } = (await sent.json()) as { documents: { id: string }[] };
    const at = `/api/documents/${documents[0]!.id}?user_id=${user_id}`;
    const state = async () => (await this.ask("GET", at, undefined, headers)).body.state;
    await expect.poll(state, { timeout: 30_000 }).toBe("ready");
    return documents[0]!.id;
  }

  /** Waits for the end of a job. */
  async ended(id: string, user_id: string, timeout = 200_000): Promise<JobInfo> {
    const at = `/api/jobs/${id}?user_id=${user_id}`;
    let job!: JobInfo;
    const look = async () => {
      job = (await this.ask("GET", at)).body;
      return job.state;
    };
    await expect.poll(look, { timeout, interval: 100 }).toMatch(/succeeded|failed|cancelled/);
    return job;
  }

  async events(id: string, user_id: string): Promise<JobEvent[]> {
    return (await this.ask("GET", `/api/jobs/${id}/events?user_id=${user_id}&limit=200`)).body.events;
  }
}
