// Thumbs become a better adapter, round after round: answers that people turned down, each with what it should have been, are
// pairs, and DPO (Rafailov et al. 2023) goes on training the same LoRA matrices from where they are. What people want here is a
// calm answer where the base is as often loud. Run it with `npx tsx docs/examples/feedback_lora.ts [ROUNDS]`; on a real model the
// same is `kiln data export --feedback dpo` and `kiln train preference RUN --adapter lora`.
import { compile, grads, noGrad, openDevice, type Tensor, tensor } from "kiln";
import { addAdapter, LlamaForCausalLM, tinyllmConfig, useAdapter } from "kiln/models";
import { AdamW } from "kiln/train";

await openDevice();
const [context, batch, beta] = [24, 8, 0.1];
const rounds = Number(process.argv[2] ?? 2);
const things = [
  "sea",
  "sky",
  "fog",
  "mud",
  "ice",
  "sun",
  "elk",
  "oak",
  "ash",
  "ink",
  "owl",
  "ant",
  "bee",
  "cow",
];
const places = ["near", "far", "up", "down", "here", "there"];
const prompts = places.flatMap((place) => things.map((thing) => `is ${thing} ${place}? `));
const [calm, loud] = ["yes it is.\n", "YES! SURE\n"];
const characters = [...new Set(`${prompts.join("")}${calm}${loud}`)].sort();
const pad = characters.length;
/** A row of ids, and where its answer begins: what is before it has no target. */
const rowOf = (prompt: string, answer: string) => {
  const ids = Array.from(`${prompt}${answer}`, (character) => characters.indexOf(character));
  const fill = (values: number[], value: number) =>
    [...values, ...Array(context).fill(value)].slice(0, context);
  const targets = ids.slice(1).map((id, i) => (i + 1 < prompt.length ? -100 : id));
  return { tokens: fill(ids, pad), targets: fill(targets, -100), length: ids.length };
};
type Row = ReturnType<typeof rowOf>;
const upload = (rows: readonly Row[]): [Tensor, Tensor] => {
  const whole = (name: "tokens" | "targets") =>
    tensor(Int32Array.from(rows.flatMap((row) => row[name])), [rows.length, context], "i32");
  return [whole("tokens"), whole("targets")];
};

const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
const model = new LlamaForCausalLM(
  tinyllmConfig({ vocab_size: pad + 1, max_position_embeddings: context, ...sizes }),
).init(1);
const places_ = (rows: number) =>
  tensor(
    Int32Array.from({ length: rows * context }, (_, i) => i % context),
    [rows, context],
    "i32",
  );
const columns = (tokens: Tensor) => ({
  positions: places_(tokens.shape[0]!),
  segments: tensor(new Int32Array(tokens.size), [...tokens.shape], "i32"),
});
/** The log-probability of each row's answer, [rows]. */
const logProbability = (tokens: Tensor, targets: Tensor) =>
  model
    .tokenLosses({ tokens, targets, ...columns(tokens) })
    .sum(1)
    .mul(-1);

/** A step of training for what is trained at the moment: the model, or its adapter. */
function stepper(lr: number, loss: (...inputs: Tensor[]) => Tensor) {
  const parameters = [...model.trainedParameters().values()];
  const optimizer = new AdamW(model.trainedParameters(), { lr, weightDecay: 0 });
  return compile((...inputs: Tensor[]) => {
    const value = loss(...inputs);
    optimizer.step(grads(value, parameters));
    return value;
  });
}
const pick = <T>(list: readonly T[], step: number) =>
  Array.from({ length: batch }, (_, i) => list[((step * batch + i) * 31) % list.length]!);

// The base has heard both answers equally often.
const said = prompts.flatMap((prompt) => [rowOf(prompt, calm), rowOf(prompt, loud)]);
const pretrain = stepper(1e-2, (tokens, targets) =>
  logProbability(tokens!, targets!)
    .mean()
    .mul(-1 / calm.length),
);
for (let step = 0; step < 60; step++) await pretrain(...upload(pick(said, step))).item();

// Feedback comes on some prompts; the others tell whether it was understood.
const held = prompts.filter((_, i) => i % 3 === 0);
const asked = prompts.filter((_, i) => i % 3 !== 0);
const score = compile((tokens: Tensor, targets: Tensor) => noGrad(() => logProbability(tokens, targets)));
const valuesOf = async (rows: readonly Row[]) => Array.from(await score(...upload(rows)).data(), Number);
const logs = async (list: readonly string[], answer: string) => {
  const all: number[] = [];
  for (let i = 0; i < list.length; i += 28)
    all.push(...(await valuesOf(list.slice(i, i + 28).map((prompt) => rowOf(prompt, answer)))));
  return all;
};
/** How likely the calm answer is beside the loud one, on each prompt. */
async function calmShares(list: readonly string[]): Promise<number[]> {
  const [one, other] = [await logs(list, calm), await logs(list, loud)];
  return one.map((log, i) => 1 / (1 + Math.exp(other[i]! - log)));
}
const mean = (list: readonly number[]) => list.reduce((sum, one) => sum + one, 0) / list.length;

addAdapter(model, { r: 4, lora_alpha: 8, target_modules: "all-linear" }, { seed: 1 });
useAdapter(model, "default");
console.log(`calm answers to questions that nobody rated: before ${mean(await calmShares(held)).toFixed(3)}`);
let random = 1;
for (let round = 1; round <= rounds; round++) {
  // The model answers; who is shouted at turns the thumb down and writes what it should have been.
  const shares = await calmShares(asked);
  const down = asked.filter((_, i) => {
    random = (random * 48271) % 2147483647;
    return random / 2147483647 > shares[i]!;
  });
  const reference = { chosen: await logs(down, calm), rejected: await logs(down, loud) };
  const train = stepper(1.5e-3, (chosen, goals, rejected, others, margin) => {
    const gained = logProbability(chosen!, goals!).sub(logProbability(rejected!, others!)).sub(margin!);
    return gained.mul(-beta).softplus().mean();
  });
  const margins = down.map((_, i) => reference.chosen[i]! - reference.rejected[i]!);
  for (let step = 0; down.length > 0 && step < 8; step++) {
    const chosen = pick([...down.keys()], step);
    const rows = (answer: string) => upload(chosen.map((i) => rowOf(down[i]!, answer)));
    await train(...rows(calm), ...rows(loud), tensor(chosen.map((i) => margins[i]!))).item();
  }
  console.log(
    `round ${round}: ${down.length} of ${asked.length} answers turned down; calm ${mean(await calmShares(held)).toFixed(3)}`,
  );
}
const trained = [...model.trainedParameters().values()].reduce((sum, { size }) => sum + size, 0);
console.log(`trained: ${trained} numbers beside ${model.numParameters - trained}`);
