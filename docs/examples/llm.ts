// Three prompts at once, in this process, as with vLLM's LLM. With a model as argument it continues them with that one:
// `npx tsx docs/examples/llm.ts runs/demo/model`.
import { openDevice } from "kiln";
import { LlamaForCausalLM, tinyllmConfig } from "kiln/models";
import { LLM } from "kiln/serve";
import { Tokenizer, trainBpe } from "kiln/tokenizer";

const prompts = ["Hello, my name is", "The capital of France is", "The future of AI is"];

const [given] = process.argv.slice(2);
const llm = new LLM(given ?? (await untrained()));
const outputs = await llm.generate(prompts, { temperature: 0.8, top_p: 0.95 });
for (const {
  prompt,
  outputs: [answer],
} of outputs) {
  console.log(`Prompt: ${JSON.stringify(prompt)}, generated text: ${JSON.stringify(answer.text)}`);
}
await llm.close();

/** A model that writes noise. `npm start` trains one. */
async function untrained() {
  await openDevice();
  const tokenizer = new Tokenizer(trainBpe(prompts, { vocab_size: 270, special_tokens: ["<|endoftext|>"] }));
  const sizes = { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 };
  return { model: new LlamaForCausalLM(tinyllmConfig({ vocab_size: 270, ...sizes })).init(1), tokenizer };
}
