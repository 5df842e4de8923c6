// An OpenAI-compatible server inside a program of your own, asked once and closed again. With a model folder as argument
// it serves that model: `npx tsx docs/examples/serve.ts runs/demo/model`.
import { openDevice } from "kiln";
import { LlamaForCausalLM, loadModel, tinyllmConfig } from "kiln/models";
import { createServer, ModelRunner } from "kiln/serve";
import { Tokenizer, trainBpe } from "kiln/tokenizer";

await openDevice();
const [folder] = process.argv.slice(2);
const { model, tokenizer } = folder ? await loadModel(folder) : untrained();
const runner = new ModelRunner(model);
const server = createServer({ runner, tokenizer, modelName: "mine" });
const url = await server.listen({ port: 0 });
const answer = await fetch(`${url}/v1/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model: "mine", prompt: "Once upon a time", max_tokens: 8, temperature: 0 }),
});
const { usage } = (await answer.json()) as { usage: { completion_tokens: number } };
console.log(`status ${answer.status}, ${usage.completion_tokens} tokens`);
await server.close();
runner.close();

function untrained() {
  const tokenizer = new Tokenizer(
    trainBpe(["Once upon a time"], { vocab_size: 262, special_tokens: ["<|end|>"] }),
  );
  const sizes = { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 };
  return { model: new LlamaForCausalLM(tinyllmConfig({ vocab_size: 262, ...sizes })).init(1), tokenizer };
}
