// A model made smaller: in NF4, distilled into half its layers, and both. Bytes of the layers' matrices, milliseconds of a batch and
// nats a token beside each other. Run it with `npx tsx docs/examples/compression.ts [STEPS]`; 1000 steps teach something.
import { compile, grads, noGrad, openDevice, type Tensor, tensor } from "kiln";
import { LlamaForCausalLM, quantizeModel, tinyllmConfig } from "kiln/models";
import { klDivLoss, QuantizedLinear } from "kiln/nn";
import { AdamW, storyCorpus } from "kiln/train";

await openDevice();
const [context, batch] = [32, 8];
const steps = Number(process.argv[2] ?? 80);
const text = [...storyCorpus({ seed: 1, stories: 120 })].join("\n");
const characters = [...new Set(text)].sort();
const ids = Int32Array.from([...text], (character) => characters.indexOf(character));
const cut = Math.floor(ids.length * 0.9);

const shape: [number, number] = [batch, context];
const whole = (values: Int32Array) => tensor(values, shape, "i32");
const positions = Int32Array.from({ length: batch * context }, (_, i) => i % context);
/** Rows of the text to train on, or of what is held out. */
const rowsOf = (step: number, from = 0, length = cut): [Tensor, Tensor] => {
  const starts = Array.from(
    { length: batch },
    (_, r) => from + (((step * batch + r) * 997) % (length - context - 1)),
  );
  const at = (shift: number) =>
    Int32Array.from(starts.flatMap((s) => [...ids.subarray(s + shift, s + shift + context)]));
  return [whole(at(0)), whole(at(1))];
};

const modelOf = (layers: number, seed: number) =>
  new LlamaForCausalLM(
    tinyllmConfig({
      ...{
        vocab_size: characters.length,
        max_position_embeddings: context,
        hidden_size: 32,
        intermediate_size: 64,
      },
      ...{ num_hidden_layers: layers, num_attention_heads: 4, num_key_value_heads: 2 },
    }),
  ).init(seed);
const logitsOf = (model: LlamaForCausalLM, tokens: Tensor) =>
  model.logits(model.hidden(tokens, { positions: whole(positions) })).flatten(0, 1);
const lossOf = (model: LlamaForCausalLM, tokens: Tensor, targets: Tensor) =>
  model
    .loss({ tokens, targets, positions: whole(positions), segments: whole(new Int32Array(batch * context)) })
    .mul(1 / (batch * context));

async function train(
  model: LlamaForCausalLM,
  objective: (tokens: Tensor, targets: Tensor) => Tensor,
): Promise<void> {
  const optimizer = new AdamW(model.parameters(), { lr: 1e-2 });
  const step = compile((tokens: Tensor, targets: Tensor) => {
    const loss = objective(tokens, targets);
    optimizer.step(grads(loss, model.parameters()));
    return loss;
  });
  for (let i = 0; i < steps; i++) await step(...rowsOf(i)).item();
}

/** Bytes of the matrices in the layers; NF4 has half a byte for each number and a scale for 64 of them. */
function bytesOf(model: LlamaForCausalLM): number {
  let bytes = 0;
  for (const module of model.namedModules().values())
    if (module instanceof QuantizedLinear) bytes += module.features[0] * module.features[1] * (0.5 + 1 / 64);
  for (const [name, parameter] of model.namedParameters())
    if (name.includes("layers.") && parameter.shape.length === 2) bytes += 4 * parameter.size;
  return Math.round(bytes);
}

async function describe(name: string, model: LlamaForCausalLM): Promise<void> {
  const pass = compile((tokens: Tensor, targets: Tensor) => noGrad(() => lossOf(model, tokens, targets)));
  let [sum, best] = [0, Number.POSITIVE_INFINITY];
  for (let i = 0; i < 6; i++) {
    const rows = rowsOf(i, cut, ids.length - cut);
    const begin = performance.now();
    sum += await pass(...rows).item();
    if (i > 0) best = Math.min(best, performance.now() - begin);
  }
  console.log(
    `${name}: ${bytesOf(model)} bytes, ${best.toFixed(1)} ms a batch, ${(sum / 6).toFixed(3)} nats a token`,
  );
}

const teacher = modelOf(2, 1);
await train(teacher, (tokens, targets) => lossOf(teacher, tokens, targets));
const student = modelOf(1, 2);
await train(student, (tokens, targets) => {
  const taught = noGrad(() => logitsOf(teacher, tokens));
  return klDivLoss(logitsOf(student, tokens), taught, 2)
    .mul(0.5)
    .add(lossOf(student, tokens, targets).mul(0.5));
});
console.log(`chance: ${Math.log(characters.length).toFixed(3)} nats a token`);
await describe("as it is", teacher);
await describe("distilled", student);
await quantizeModel(teacher);
await describe("quantised", teacher);
await quantizeModel(student);
await describe("both", student);
