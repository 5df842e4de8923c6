// Four clients with stories of their own improve one adapter together, and no story leaves its client: federated averaging
// (McMahan et al. 2017) of LoRA matrices, beside a client that learns alone and beside all stories in one place. Run it with
// `npx tsx docs/examples/federated_lora.ts [ROUNDS]`.
import { compile, grads, noGrad, openDevice, type Tensor, tensor } from "kiln";
import { addAdapter, LlamaForCausalLM, tinyllmConfig, useAdapter } from "kiln/models";
import { AdamW, storyCorpus } from "kiln/train";

await openDevice();
const [context, batch, localSteps] = [32, 8, 6];
const rounds = Number(process.argv[2] ?? 5);
/** What each client's people say. */
const sayings: ((i: number) => string)[] = [
  (i) => `the dog ran to the old ${["barn", "door", "tree"][i % 3]} with a bone. `,
  (i) => `a cat slept upon our red ${["roof", "chair", "box"][i % 3]} all day. `,
  (i) => `two birds sang high above my green ${["hill", "field", "wood"][i % 3]}. `,
  (i) => `some fish swam under that deep blue ${["lake", "sea", "ice"][i % 3]}. `,
];
const general = [...storyCorpus({ seed: 3, stories: 60 })].join("\n").toLowerCase();
const characters = [...new Set(general)].sort();
const encode = (text: string) =>
  Int32Array.from(
    [...text].filter((c) => characters.includes(c)),
    (c) => characters.indexOf(c),
  );
const textOf = (saying: (i: number) => string) =>
  encode(Array.from({ length: 40 }, (_, i) => saying(i)).join(""));
const clients = sayings.map(textOf);
/** What all of them say, mixed. */
const heldOut = encode(Array.from({ length: 80 }, (_, i) => sayings[(i * 7) % 4](i)).join(""));

const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
const model = new LlamaForCausalLM(
  tinyllmConfig({ vocab_size: characters.length, max_position_embeddings: context, ...sizes }),
).init(1);

const positions = Int32Array.from({ length: batch * context }, (_, i) => i % context);
/** A batch of rows of a text, which begin at different places in each step. */
const rowsOf = (text: Int32Array, step: number): [Tensor, Tensor] => {
  const starts = Array.from(
    { length: batch },
    (_, r) => ((step * batch + r) * 397) % (text.length - context - 1),
  );
  const ids = (shift: number) =>
    tensor(
      Int32Array.from(starts.flatMap((at) => [...text.subarray(at + shift, at + shift + context)])),
      [batch, context],
      "i32",
    );
  return [ids(0), ids(1)];
};
const loss = (tokens: Tensor, targets: Tensor) =>
  model
    .loss({
      tokens,
      targets,
      positions: tensor(positions, [batch, context], "i32"),
      segments: tensor(new Int32Array(batch * context), [batch, context], "i32"),
    })
    .mul(1 / (batch * context));

/** A step of training for what is trained at the moment: the model, or its adapter. */
function trainer(lr: number) {
  const optimizer = new AdamW(model.trainedParameters(), { lr, weightDecay: 0 });
  const parameters = [...model.trainedParameters().values()];
  return compile((tokens: Tensor, targets: Tensor) => {
    const value = loss(tokens, targets);
    optimizer.step(grads(value, parameters));
    return value;
  });
}
const measure = compile((tokens: Tensor, targets: Tensor) => noGrad(() => loss(tokens, targets)));
async function heldOutLoss(): Promise<number> {
  let sum = 0;
  for (let i = 0; i < 4; i++) sum += await measure(...rowsOf(heldOut, i)).item();
  return sum / 4;
}

const pretrain = trainer(5e-3);
const corpus = encode(general);
for (let step = 0; step < 60; step++) await pretrain(...rowsOf(corpus, step)).item();
const base = await heldOutLoss();

addAdapter(model, { r: 8, lora_alpha: 16, target_modules: "all-linear" }, { seed: 1 });
useAdapter(model, "default");
const adapter = [...model.trainedParameters().values()];
const values = () => Promise.all(adapter.map(async (parameter) => Float32Array.from(await parameter.data())));
const set = (all: Float32Array[]) => {
  for (const [i, parameter] of adapter.entries()) parameter.write(all[i]);
};
const fresh = await values();

/** Trains the adapter on a text from these values. Its optimizer begins anew, as on a client that is asked now and then. */
async function local(
  text: Int32Array,
  from: Float32Array[],
  steps: number,
  offset: number,
): Promise<Float32Array[]> {
  set(from);
  const step = trainer(2e-2);
  for (let i = 0; i < steps; i++) await step(...rowsOf(text, offset + i)).item();
  return values();
}

let shared = fresh;
for (let round = 0; round < rounds; round++) {
  const learnt: Float32Array[][] = [];
  for (const text of clients) learnt.push(await local(text, shared, localSteps, round * localSteps));
  // Every client has as much text: their mean is the weighted one.
  shared = fresh.map((matrix, m) =>
    matrix.map((_, i) => learnt.reduce((sum, one) => sum + one[m][i], 0) / learnt.length),
  );
}
set(shared);
const federated = await heldOutLoss();
set(await local(clients[0], fresh, rounds * localSteps, 0));
const alone = await heldOutLoss();
const pooled = Int32Array.from(clients.flatMap((text) => [...text]));
set(await local(pooled, fresh, rounds * localSteps, 0));
const together = await heldOutLoss();
const sent = adapter.reduce((sum, parameter) => sum + parameter.size, 0);
console.log(
  `held-out loss: base ${base.toFixed(3)}, one client alone ${alone.toFixed(3)}, federated ${federated.toFixed(3)}, pooled ${together.toFixed(3)}`,
);
console.log(`sent by a client in a round: ${sent} numbers of ${model.numParameters}`);
