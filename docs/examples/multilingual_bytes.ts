// One model for every script: tokens are the bytes of UTF-8, so that no language is foreign. Text in seven scripts and emoji goes to ids and
// back, is learnt, and comes out of the server's own decoding without a broken character. Run it with
// `npx tsx docs/examples/multilingual_bytes.ts [STEPS]`.
import { compile, grads, noGrad, openDevice, type Tensor, tensor } from "kiln";
import { LlamaForCausalLM, tinyllmConfig } from "kiln/models";
import { TextGenerator } from "kiln/serve";
import { Tokenizer, trainBpe } from "kiln/tokenizer";
import { AdamW } from "kiln/train";

const texts: Record<string, string> = {
  English: "The sun is warm.",
  German: "Süße Grüße!",
  Russian: "Море синее.",
  Greek: "Ο ήλιος λάμπει.",
  Arabic: "الشمس دافئة.",
  Hindi: "सूरज गरम है।",
  Chinese: "太阳很暖和。",
  emoji: "☀️🌊 🇩🇪 é e\u0301",
};
await openDevice();
// No merges: the vocabulary is 256 bytes and the end of text.
const end = "<|endoftext|>";
const tokenizer = new Tokenizer(trainBpe(Object.values(texts), { vocab_size: 257, special_tokens: [end] }));
const encoded: Record<string, number[]> = {};
for (const [language, text] of Object.entries(texts)) {
  const ids = await tokenizer.encode(text, { addSpecialTokens: false });
  if (ids.length !== Buffer.byteLength(text) || tokenizer.decode(ids) !== text)
    throw new Error(`${language} is changed`);
  encoded[language] = ids;
}
console.log(`${Object.keys(texts).length} texts are the same after ids and back: a token is a byte`);

const context = 64;
const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
const model = new LlamaForCausalLM(
  tinyllmConfig({ vocab_size: 257, max_position_embeddings: context, ...sizes }),
).init(1);
const endId = tokenizer.tokenToId(end)!;
const rows = Object.values(encoded).map((ids) => [endId, ...ids, endId]);
const length = Math.max(...rows.map((row) => row.length)) - 1;
const column = (of: (row: number[], i: number) => number) =>
  tensor(
    rows.map((row) => Array.from({ length }, (_, i) => of(row, i))),
    undefined,
    "i32",
  );
const tokens = column((row, i) => row[i] ?? endId);
// Nothing is learnt from what fills a row.
const targets = column((row, i) => row[i + 1] ?? -100);
const [positions, segments] = [column((_, i) => i), column(() => 0)];
const learnt = rows.reduce((sum, row) => sum + row.length - 1, 0);
const optimizer = new AdamW(model.parameters(), { lr: 1e-2 });
const step = compile(() => {
  const loss = model.loss({ tokens, targets, positions, segments }).mul(1 / learnt);
  optimizer.step(grads(loss, model.parameters()));
  return loss;
});
const steps = Number(process.argv[2] ?? 120);
for (let i = 0; i < steps; i++) await step().item();

/** Bits of a byte in each language. */
const losses: Tensor = noGrad(() => model.tokenLosses({ tokens, targets, positions, segments }));
const nats = Array.from(await losses.data(), Number);
for (const [r, language] of Object.keys(texts).entries()) {
  const sum = nats.slice(r * length, (r + 1) * length).reduce((a, b) => a + b, 0);
  console.log(`${language}: ${(sum / Math.LN2 / (rows[r].length - 1)).toFixed(3)} bits a byte`);
}

const generator = new TextGenerator(model, tokenizer);
let [right, broken] = [0, 0];
for (const text of Object.values(texts)) {
  const begin = [...text].slice(0, 3).join("");
  let said = begin;
  for await (const piece of generator.stream(begin, { max_tokens: 48, temperature: 0 })) {
    said += piece;
    // A piece never ends inside a character.
    if (piece.includes("\ufffd")) broken++;
  }
  if (said === text) right++;
}
generator.close();
console.log(
  `${right} of ${rows.length} texts are written to their end, ${broken} pieces with a broken character`,
);
