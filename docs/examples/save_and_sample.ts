// Makes a TinyLLM, saves it in Hugging Face layout, loads the folder again, and samples from it. With a folder as
// argument, samples from that model: `npx tsx docs/examples/save_and_sample.ts runs/demo/model`.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { openDevice } from "kiln";
import { LlamaForCausalLM, loadModel, saveModel, tinyllmConfig } from "kiln/models";
import { TextGenerator } from "kiln/serve";
import { Tokenizer, trainBpe } from "kiln/tokenizer";
import { storyCorpus } from "kiln/train";

/** An untrained model, which writes noise. `npm start` trains one. */
async function newModel(): Promise<string> {
  const folder = path.join(mkdtempSync(path.join(tmpdir(), "kiln-")), "tiny");
  const stories = [...storyCorpus({ seed: 1, stories: 50 })];
  const tokenizer = new Tokenizer(trainBpe(stories, { vocab_size: 300, special_tokens: ["<|endoftext|>"] }));
  const sizes = { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 };
  const model = new LlamaForCausalLM(tinyllmConfig({ vocab_size: 300, ...sizes })).init(1);
  await saveModel(folder, model, tokenizer);
  return folder;
}

await openDevice();
const { model, tokenizer } = await loadModel(process.argv[2] ?? (await newModel()));
const generator = new TextGenerator(model, tokenizer);
const options = { max_tokens: 20, temperature: 0.8, seed: 1 };
for await (const piece of generator.stream("Once upon a time", options)) process.stdout.write(piece);
process.stdout.write("\n");
generator.close();
