// Things of 16 kinds, each with a note, a picture, a sound and a row of a table, of which each tells half of what is to be known of
// one question: features of all four together tell the kind, those of one cannot. Run it with
// `npx tsx docs/examples/fused_features.ts`.
import { argmax, cat, crossEntropy, openDevice, relu, type Tensor, tensor } from "kiln";
import { imageTensor, mfcc, normalize, resize, TableFeatures } from "kiln/models";
import { Linear, manualSeed, Sequential } from "kiln/nn";
import { AdamW } from "kiln/train";

await openDevice();
manualSeed(1);
let state = 7;
/** Numbers in [0, 1), the same in each run. */
const chance = () => {
  state = (state * 1664525 + 1013904223) % 2 ** 32;
  return state / 2 ** 32;
};
const pick = (words: readonly string[]) => words[Math.floor(chance() * words.length)];
const list = <T>(count: number, of: (i: number) => T) => Array.from({ length: count }, (_, i) => of(i));

const words = [
  ["sweet", "ripe", "juicy", "fresh"],
  ["sour", "green", "hard", "raw"],
];
const rate = 8000;

/** A thing of a kind, whose four bits are told by its note, its picture, its sound and its row. */
function thing(kind: number) {
  const [word, bars, tone, heavy] = list(4, (i) => (kind >> i) & 1);
  const note = `a ${pick(words[word])} one, ${pick(["bought", "found", "picked"])} on ${pick(["monday", "friday"])}`;
  const data = Uint8Array.from({ length: 20 * 16 * 3 }, (_, i) => {
    const [x, y] = [Math.floor(i / 3) % 20, Math.floor(i / 60)];
    return 200 * (((bars ? x : y) >> 2) % 2) + 55 * chance();
  });
  const hertz = (tone ? 900 : 300) * (0.9 + 0.2 * chance());
  const sound = list(1600, (i) => 0.4 * Math.sin((2 * Math.PI * hertz * i) / rate) + 0.2 * (chance() - 0.5));
  const row = {
    grams: chance() < 0.1 ? null : 100 + 60 * heavy + 40 * chance(),
    shop: chance() < 0.8 ? ["corner", "market"][heavy] : "unknown",
  };
  return { kind, note, picture: { data, width: 20, height: 16, channels: 3 }, sound, row };
}

const things = list(960, (i) => thing(i % 16));
const [train, test] = [things.slice(0, 640), things.slice(640)];
type Things = typeof things;

// What is fitted, is fitted on the things of training.
const vocabulary = [...new Set(train.flatMap(({ note }) => note.split(/\W+/)))];
const table = TableFeatures.fit(
  train.map(({ row }) => row),
  { grams: { kind: "number" }, shop: { kind: "category" } },
);

/** The features of each kind of data, [things, features]. */
const features: Record<string, (some: Things) => Tensor> = {
  text: (some) =>
    tensor(some.map(({ note }) => vocabulary.map((word) => Number(note.split(/\W+/).includes(word))))),
  picture: (some) => {
    const pictures = cat(some.map(({ picture }) => imageTensor(picture)));
    const small = normalize(resize(pictures, [4, 5]), [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]);
    return small.flatten(1);
  },
  sound: (some) => {
    const sounds = tensor(some.map(({ sound }) => sound));
    return mfcc(sounds, { sampleRate: rate, size: 256, mels: 24, coefficients: 13 }).mean(2);
  },
  table: (some) => table.transform(some.map(({ row }) => row)),
};

/** Trains a small network on features of the first things. @returns the share of the others whose kind it tells. */
async function accuracy(known: Tensor, others: Tensor): Promise<number> {
  const [mean, std] = [known.mean(0), known.std(0).add(1e-3)];
  const scaled = (x: Tensor) => x.sub(mean).div(std);
  const model = new Sequential(new Linear(known.shape[1], 64), relu, new Linear(64, 16));
  const optimizer = new AdamW(model.parameters(), { lr: 0.01 });
  const labels = tensor(
    train.map(({ kind }) => kind),
    [train.length],
    "i32",
  );
  for (let step = 0; step < 60; step++) {
    const loss = crossEntropy(model.forward(scaled(known)), labels);
    optimizer.zeroGrad();
    loss.backward();
    optimizer.step();
  }
  const told = await argmax(model.forward(scaled(others)), 1).data();
  return test.filter(({ kind }, i) => Number(told[i]) === kind).length / test.length;
}

const all = Object.entries(features).map(([name, of]) => ({ name, known: of(train), others: of(test) }));
for (const { name, known, others } of all)
  console.log(`${name} alone: ${(await accuracy(known, others)).toFixed(3)}`);
const fused = [
  cat(
    all.map(({ known }) => known),
    1,
  ),
  cat(
    all.map(({ others }) => others),
    1,
  ),
];
console.log(`all four: ${(await accuracy(fused[0], fused[1])).toFixed(3)}`);
