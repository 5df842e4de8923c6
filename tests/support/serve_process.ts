import { type ChildProcess, spawn } from "node:child_process";
import { withDevice } from "../../core/device.ts";
import { ReferenceDevice } from "../../core/reference_device.ts";
import { LlamaForCausalLM } from "../../models/llama.ts";
import { tinyllmConfig } from "../../models/llama_config.ts";
import { fakeChatTokenizer } from "../serve_fake.ts";

/** Writes a decoder with one layer of random weights, that chats, for processes of `kiln serve`. */
export async function writeTinyModel(folder: string): Promise<void> {
  const tokenizer = fakeChatTokenizer();
  const model = await withDevice(new ReferenceDevice(), () => {
    const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
    return new LlamaForCausalLM(
      tinyllmConfig({
        vocab_size: tokenizer.vocabSize,
        max_position_embeddings: 2048,
        ...sizes,
        initializer_range: 0.3,
      }),
    ).init(1);
  });
  await model.savePretrained(folder, tokenizer);
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
export async function serveProcess(args: readonly string[]): Promise<ServeProcess> {
  const command = ["--import", COLLECTOR, "bin/kiln.mjs", "serve", ...args, "--port", "0"];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "pipe"] });
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
