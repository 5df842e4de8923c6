// A GPT of characters, written with kiln/nn as one would write it in PyTorch, trained on the built-in stories. The step is
// compiled: traced once, fused, and replayed. Run it with `npx tsx docs/examples/small_gpt.ts [STEPS]`; 2000 steps spell.
import {
  arange,
  attention,
  compile,
  crossEntropy,
  gelu,
  grads,
  noGrad,
  openDevice,
  type Tensor,
  tensor,
} from "kiln";
import { Embedding, LayerNorm, Linear, Module, Sequential } from "kiln/nn";
import { AdamW, storyCorpus } from "kiln/train";

const context = 32;
const width = 32;
const heads = 4;

class Block extends Module {
  norm1 = new LayerNorm(width);
  qkv = new Linear(width, 3 * width);
  out = new Linear(width, width);
  norm2 = new LayerNorm(width);
  mlp = new Sequential(new Linear(width, 4 * width), gelu, new Linear(4 * width, width));

  /** [B, T, width] to the same. */
  forward(x: Tensor): Tensor {
    const [batch, time] = x.shape;
    const [query, key, value] = this.qkv
      .forward(this.norm1.forward(x))
      .split(width, -1)
      .map((part) => part.reshape([batch, time, heads, width / heads]).transpose(1, 2)); // [B, heads, T, width / heads]
    const mixed = attention(query, key, value, { causal: true });
    const added = x.add(this.out.forward(mixed.transpose(1, 2).reshape([batch, time, width])));
    return added.add(this.mlp.forward(this.norm2.forward(added)));
  }
}

class Gpt extends Module {
  tokens: Embedding;
  positions = new Embedding(context, width);
  blocks = [new Block(), new Block()];
  norm = new LayerNorm(width);
  head: Linear;

  constructor(vocabulary: number) {
    super();
    this.tokens = new Embedding(vocabulary, width);
    this.head = new Linear(width, vocabulary);
  }

  /** Ids [B, T] to logits [B, T, vocabulary]. */
  forward(ids: Tensor): Tensor {
    let x = this.tokens.forward(ids).add(this.positions.forward(arange(ids.shape[1])));
    for (const block of this.blocks) x = block.forward(x);
    return this.head.forward(this.norm.forward(x));
  }
}

await openDevice();
const text = [...storyCorpus({ seed: 1, stories: 200 })].join("\n");
const characters = [...new Set(text)].sort();
const encode = (piece: string) => Int32Array.from(piece, (character) => characters.indexOf(character));
const ids = encode(text);
const model = new Gpt(characters.length);
console.log(`${model.numParameters} parameters, ${ids.length} characters`);

const optimizer = new AdamW(model.parameters(), { lr: 3e-3 });
const step = compile((inputs: Tensor, targets: Tensor) => {
  const logits = model.forward(inputs).flatten(0, 1); // [B * T, vocabulary]
  const loss = crossEntropy(logits, targets.flatten());
  optimizer.step(grads(loss, model.parameters()));
  return loss;
});

/** Rows of the text that begin at `starts`. */
const rows = (starts: number[]) =>
  tensor(
    starts.map((start) => ids.subarray(start, start + context)),
    undefined,
    "i32",
  );
const steps = Number(process.argv[2] ?? 60);
for (let i = 0; i < steps; i++) {
  const starts = Array.from({ length: 8 }, (_, row) => ((i * 8 + row) * 997) % (ids.length - context - 1));
  const loss = step(rows(starts), rows(starts.map((start) => start + 1)));
  if (i % 20 === 0 || i === steps - 1) console.log(`step ${i}, loss ${await loss.item()}`);
}

// Always the likeliest character.
let story = "Once upon a time";
while (story.length < context) {
  const logits = noGrad(() => model.forward(tensor([encode(story)], undefined, "i32")));
  story += characters[await logits.select(1, -1).argmax().item()];
}
console.log(story);
