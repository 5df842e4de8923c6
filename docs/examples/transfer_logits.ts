// What a model knows goes to one with another tokenizer, by its probabilities alone: a Llama that reads byte pairs teaches one of
// half its layers that reads characters. Wherever a token of the teacher ends, its probabilities of the next token are
// summed by their first characters: that is its distribution of the next character. Run it with
// `npx tsx docs/examples/transfer_logits.ts [STEPS]`.
import { compile, grads, noGrad, openDevice, type Tensor, tensor } from "kiln";
import { LlamaForCausalLM, tinyllmConfig } from "kiln/models";
import { Tokenizer, trainBpe } from "kiln/tokenizer";
import { AdamW, storyCorpus } from "kiln/train";

await openDevice();
const [length, batch] = [32, 8];
const steps = Number(process.argv[2] ?? 100);
const stories = [...storyCorpus({ seed: 2, stories: 160 })].map((story) => `${story}\n`.toLowerCase());
// The teacher has read a lot; the student has a little, of which it reads every line many times.
const [large, little, held] = [stories.slice(0, 120), stories.slice(0, 2), stories.slice(130)];
const bpe = new Tokenizer(trainBpe(large, { vocab_size: 300, special_tokens: [] }));
const characters = [...new Set(stories.join(""))].sort();

const sizes = {
  max_position_embeddings: length,
  hidden_size: 32,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};
const modelOf = (vocab_size: number, num_hidden_layers: number) =>
  new LlamaForCausalLM(tinyllmConfig({ ...sizes, vocab_size, num_hidden_layers })).init(1);
const teacher = modelOf(bpe.vocabSize, 2);
const studentOf = () => modelOf(characters.length, 1);

const whole = (values: Int32Array | number[], width = length) =>
  tensor(Int32Array.from(values), [values.length / width, width], "i32");
const columns = (rows: number) => ({
  positions: whole(Array.from({ length: rows * length }, (_, i) => i % length)),
  segments: whole(new Int32Array(rows * length)),
});
const logitsOf = (model: LlamaForCausalLM, tokens: Tensor) =>
  model.logits(model.hidden(tokens, columns(tokens.shape[0]!))).flatten(0, 1);
const lossOf = (model: LlamaForCausalLM, tokens: Tensor, targets: Tensor) =>
  model.loss({ tokens, targets, ...columns(tokens.shape[0]!) }).mul(1 / tokens.size);

/** Rows of ids and of those that follow them, from different places of a text in each step. */
function rowsOf(ids: ArrayLike<number>, step: number): { tokens: Tensor; targets: Tensor; starts: number[] } {
  const starts = Array.from(
    { length: batch },
    (_, r) => ((step * batch + r) * 397) % (ids.length - length - 1),
  );
  const at = (shift: number) =>
    whole(starts.flatMap((start) => Array.from({ length }, (_, i) => ids[start + shift + i]!)));
  return { tokens: at(0), targets: at(1), starts };
}
function stepper(model: LlamaForCausalLM, loss: (...inputs: Tensor[]) => Tensor) {
  const optimizer = new AdamW(model.parameters(), { lr: 1e-2 });
  return compile((...inputs: Tensor[]) => {
    const value = loss(...inputs);
    optimizer.step(grads(value, model.parameters()));
    return value;
  });
}
const encode = (text: string) => Int32Array.from([...text], (character) => characters.indexOf(character));
const heldOut = encode(held.join(""));
const nats = async (model: LlamaForCausalLM) => {
  const pass = compile((tokens: Tensor, targets: Tensor) => noGrad(() => lossOf(model, tokens, targets)));
  let sum = 0;
  for (let i = 0; i < 6; i++) {
    const { tokens, targets } = rowsOf(heldOut, i);
    sum += await pass(tokens, targets).item();
  }
  return sum / 6;
};

// The teacher learns the large text in its own tokens.
const teach = stepper(teacher, (tokens, targets) => lossOf(teacher, tokens!, targets!));
const largeIds = await bpe.encode(large.join(""));
for (let step = 0; step < 2 * steps; step++) {
  const { tokens, targets } = rowsOf(largeIds, step);
  await teach(tokens, targets).item();
}

// What it says of the little text, at the ends of its tokens: a row of probabilities of the next character each.
const firsts = Array.from({ length: bpe.vocabSize }, (_, id) =>
  characters.indexOf([...bpe.decode([id])][0] ?? ""),
);
const byFirst = tensor(
  Float32Array.from({ length: bpe.vocabSize * characters.length }, (_, i) =>
    firsts[Math.floor(i / characters.length)] === i % characters.length ? 1 : 0,
  ),
  [bpe.vocabSize, characters.length],
);
const text = little.join("");
const ids = await bpe.encode(text);
const said = new Float32Array(text.length * characters.length);
const known = new Float32Array(text.length);
const ask = compile((tokens: Tensor) => noGrad(() => logitsOf(teacher, tokens).softmax(-1).matmul(byFirst)));
// Half of a row is what it has read before, so that no place is asked about without a beginning.
const half = length / 2;
const ends: number[] = [];
for (let i = 0, at = 0; i < ids.length; i++) {
  at += [...bpe.decode([ids[i]!])].length;
  ends.push(at);
}
for (let start = 0; start + length <= ids.length; start += half) {
  const rows = (await ask(whole(ids.slice(start, start + length))).data()) as Float32Array;
  for (let i = start === 0 ? 0 : half; i < length; i++) {
    const place = ends[start + i]! - 1;
    const own = rows.subarray(i * characters.length, (i + 1) * characters.length);
    said.set(own, place * characters.length);
    known[place] = 1;
  }
}

const alone = studentOf();
const learn = stepper(alone, (tokens, targets) => lossOf(alone, tokens!, targets!));
const taught = studentOf();
const listen = stepper(taught, (tokens, targets, probabilities, weights) => {
  // Where the teacher says something, half of what is to be said next comes from it; else all of it from the text.
  const logs = logitsOf(taught, tokens!).logSoftmax(-1);
  const own = logs.gather(1, targets!.reshape([-1, 1])).reshape([-1]);
  const others = logs.mul(probabilities!).sum(-1);
  return own.mul(weights!.mul(-1).add(1)).add(others.mul(weights!)).mean().mul(-1);
});
const textIds = encode(text);
for (let step = 0; step < 2 * steps; step++) {
  const { tokens, targets, starts } = rowsOf(textIds, step);
  await learn(tokens, targets).item();
  const width = characters.length;
  const probabilities = new Float32Array(batch * length * width);
  for (const [r, start] of starts.entries())
    probabilities.set(said.subarray(start * width, (start + length) * width), r * length * width);
  const weights = Float32Array.from(
    starts.flatMap((start) => [...known.subarray(start, start + length)].map((one) => one / 2)),
  );
  await listen(tokens, targets, tensor(probabilities, [batch * length, width]), tensor(weights)).item();
}
const share = known.reduce((sum, one) => sum + one, 0) / known.length;
console.log(`places of which the teacher says something: ${share.toFixed(2)} of all`);
console.log(
  `held-out nats a character: chance ${Math.log(characters.length).toFixed(3)}, alone ${(await nats(alone)).toFixed(3)}, taught ${(await nats(taught)).toFixed(3)}`,
);
