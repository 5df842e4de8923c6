import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { withDevice } from "../../core/device.ts";
import { ReferenceDevice } from "../../core/reference_device.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { fakeChatTokenizer } from "../serve_fake.ts";

/** Writes a decoder with one layer of random weights for processes of `kiln serve`; by its tokenizer it chats or only writes. */
export async function writeTinyModel(
  folder: string,
  { tokenizer = fakeChatTokenizer(), context = 2048 } = {},
): Promise<void> {
  const model = await withDevice(new ReferenceDevice(), () => {
    const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
    return new LlamaForCausalLM(
      tinyllmConfig({
        vocab_size: tokenizer.vocabSize,
        max_position_embeddings: context,
        ...sizes,
        initializer_range: 0.3,
      }),
    ).init(1);
  });
  await model.savePretrained(folder, tokenizer);
}

/** Makes such a model write until its context is full, at temperature 0: the end of text is never the likeliest. */
export function makeEndless(folder: string, { eosIds }: { readonly eosIds: readonly number[] }): void {
  const file = path.join(folder, "model.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  const {
    shape,
    data_offsets: [begin],
  } = header["model.embed_tokens.weight"];
  const row = shape[1] * 4;
  // The embeddings are the output's weights too.
  const { eos_token_id } = JSON.parse(readFileSync(path.join(folder, "generation_config.json"), "utf8"));
  for (const id of [...eosIds, eos_token_id].flat())
    bytes.fill(0, 8 + length + begin + id * row, 8 + length + begin + (id + 1) * row);
  writeFileSync(file, bytes);
}

/** A process of `kiln serve` on a free port of 127.0.0.1. */
export interface ServeProcess {
  readonly url: string;
  readonly child: ChildProcess;
  /** All that it has written so far, on both outputs. */
  output(): string;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** A module with which SIGUSR2 collects garbage, which V8 otherwise leaves until it has doubled the heap. */
const COLLECTOR = `data:text/javascript,${encodeURIComponent(`
  import { setFlagsFromString } from "node:v8";
  import { runInNewContext } from "node:vm";
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc");
  process.on("SIGUSR2", () => { collect(); process.stderr.write("collected\\n"); });
`)}`;

/** Resolves when it answers; fails with what it said if it ends before. */
export async function serveProcess(
  args: readonly string[],
  port = 0,
  cwd = process.cwd(),
): Promise<ServeProcess> {
  const kiln = path.resolve("bin/kiln.mjs");
  const command = ["--import", COLLECTOR, kiln, "serve", ...args, "--port", `${port}`];
  const child = spawn(process.execPath, command, { cwd, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("close", (code, signal) => resolve({ code, signal }));
  });
  const url = await new Promise<string>((resolve, reject) => {
    for (const out of [child.stdout, child.stderr])
      out.setEncoding("utf8").on("data", (text: string) => {
        output += text;
        const found = /^Serving .* at (http:\S+)$/m.exec(output);
        if (found) resolve(found[1]);
      });
    void exited.then(({ code }) => reject(new Error(`kiln serve ended with ${code}: ${output}`)));
  });
  return { url, child, exited, output: () => output };
}
