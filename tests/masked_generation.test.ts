import { beforeAll, describe, expect, it, vi } from "vitest";
import { openDevice } from "../kernels/index.ts";
import type { Encoder } from "../models/encoder.ts";
import { type MaskedGenerationOptions, MaskedGenerator } from "../models/masked_generation.ts";
import { pipeline } from "../models/pipeline.ts";
import { TextReader } from "../models/text_reader.ts";
import { randomBert, wordPieces } from "./support/word_pieces.ts";

const tokenizer = wordPieces();
let model: Encoder;
beforeAll(async () => {
  await openDevice();
  model = randomBert("ForMaskedLM");
});

const generator = (options?: MaskedGenerationOptions) => new MaskedGenerator(model, tokenizer, options);
const names = (ids: readonly number[]) => ids.map((id) => tokenizer.idToToken(id)!);

describe.each(["mask-predict", "gibbs"] as const)("%s", (strategy) => {
  const run = (
    prompts: readonly (string | readonly number[])[],
    options: object,
    more: MaskedGenerationOptions = {},
  ) => generator({ strategy, iterations: 3, ...more }).generate(prompts, options);

  it("writes as many tokens as asked, or as fit, none of them special, the same for a seed whatever is beside it", async () => {
    const options = { max_tokens: 6, temperature: 1, seed: 5, n: 2 };
    const [alone] = await run(["the cat"], options);
    const together = await run(["a good film is this", "the cat", "the cat"], options);
    expect(together[1]).toEqual(alone);
    expect(together[2]).toEqual(alone);
    expect(alone[0].token_ids).not.toEqual(alone[1].token_ids);
    for (const { token_ids, text, finish_reason } of together.flat()) {
      expect(token_ids).toHaveLength(6);
      expect(token_ids.filter((id) => tokenizer.isSpecial(id))).toEqual([]);
      expect(finish_reason).toBe("length");
      expect(text).toMatch(/^\W|^\w/);
    }
    const [[other]] = await run(["the cat"], { ...options, seed: 6, n: 1 });
    expect(other.token_ids).not.toEqual(alone[0].token_ids);
    // [CLS] the cat [SEP] and 36 more are the model's 40 positions.
    const [[most]] = await run(["the cat"], { max_tokens: 100, temperature: 0 });
    expect(most.token_ids).toHaveLength(36);
    expect((await run(["the cat"], { max_tokens: 0 }))[0][0]).toMatchObject({ text: "", token_ids: [] });
  });

  it("continues ids as they are, before the tokens that end a text, and cuts at a stop text", async () => {
    const ids = await tokenizer.encode("the cat");
    const options = { max_tokens: 5, temperature: 0 };
    const [[text], [same], [open]] = await run(["the cat", ids, ids.slice(0, -1)], options);
    expect(same).toEqual(text);
    expect(open.token_ids).toHaveLength(5);
    const [later, first] = [text.text.slice(-3), text.text.slice(2, 5)];
    const [[cut]] = await run(["the cat"], { ...options, stop: [later, first, "never"] });
    expect(cut).toMatchObject({ finish_reason: "stop", text: text.text.slice(0, 2) });
  });

  it("one token is the likeliest that the fill-mask pipeline finds", async () => {
    const [[one]] = await run(["the cat sat"], { max_tokens: 1, temperature: 0 });
    const fill = await pipeline("fill-mask", { model, tokenizer });
    const found = await fill("the cat sat [MASK]", { top_k: 21 });
    expect(one.token_ids).toEqual([found.find(({ token }) => !tokenizer.isSpecial(token))!.token]);
  });
});

it("mask-predict writes the least certain tokens anew, fewer each time", async () => {
  const shares: number[] = [];
  const [[once]] = await generator({ iterations: 1 }).generate(["the cat"], {
    max_tokens: 6,
    temperature: 0,
  });
  const progress = (share: number) => void shares.push(share);
  const [[thrice]] = await generator({ iterations: 3, progress }).generate(["the cat"], {
    max_tokens: 6,
    temperature: 0,
  });
  expect(shares).toEqual([1 / 3, 2 / 3, 1]);
  // By hand: the first pass, then the four least certain, then two.
  const masks = new Array<string>(6).fill("[MASK]");
  const words = [...masks];
  const certain: number[] = [];
  const rewrite = async (places: readonly number[]) => {
    for (const place of places) words[place] = "[MASK]";
    const seen = [...words];
    for (const place of places) {
      const logits = await guess(seen, place);
      words[place] = logits.token;
      certain[place] = logits.score;
    }
  };
  await rewrite([0, 1, 2, 3, 4, 5]);
  expect(names(once.token_ids)).toEqual(words);
  const least = () => [0, 1, 2, 3, 4, 5].sort((a, b) => certain[a] - certain[b]);
  for (const count of [4, 2]) {
    const places = least().slice(0, count);
    // Neither the first places nor the last: the order is that of the certainty.
    for (const other of [0, 6 - count])
      expect(places.toSorted()).not.toEqual(Array.from(places, (_, i) => other + i));
    await rewrite(places);
  }
  expect(names(thrice.token_ids)).toEqual(words);
});

it("mask-predict draws from the top_k, top_p and min_p of a place", async () => {
  const run = async (options: object) => {
    const made = generator({ iterations: 1 });
    const [[{ token_ids }]] = await made.generate(["the cat"], { max_tokens: 12, seed: 2, ...options });
    return token_ids;
  };
  const greedy = await run({ temperature: 0 });
  expect(await run({})).not.toEqual(greedy);
  for (const one of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }]) expect(await run(one)).toEqual(greedy);
});

it("gibbs with temperature 0 ends where no single token would be changed", async () => {
  const [[{ token_ids }]] = await generator({ strategy: "gibbs", iterations: 12 }).generate(["the cat"], {
    max_tokens: 4,
    temperature: 0,
  });
  const words = names(token_ids);
  for (const place of words.keys()) {
    const { token } = await guess(words.with(place, "[MASK]"), place);
    expect(token).toBe(words[place]);
  }
});

/** Which places were masked in each pass while `body` generated, by text. */
async function masked(body: () => Promise<unknown>): Promise<number[][][]> {
  const passes: number[][][] = [];
  const { logits } = TextReader.prototype;
  const spy = vi.spyOn(TextReader.prototype, "logits").mockImplementation(function (
    this: TextReader,
    ...given
  ) {
    const places = (ids: readonly number[]) =>
      ids.flatMap((id, place) => (id === tokenizer.maskId ? [place] : []));
    passes.push(given[0].map(({ ids }) => places(Array.from(ids))));
    return logits.apply(this, given);
  });
  try {
    await body();
  } finally {
    spy.mockRestore();
  }
  return passes;
}

it("gibbs masks each token once an iteration, in an order of each iteration's, text's and seed's own", async () => {
  const orders = async (seed: number) => {
    const run = generator({ strategy: "gibbs", iterations: 3 });
    const passes = await masked(() => run.generate(["the cat"], { max_tokens: 8, n: 2, seed }));
    // The first iteration begins with masks alone, so that the place that is written is told from the second on.
    return [1, 2].flatMap((t) =>
      [0, 1].map((text) => passes.slice(8 * t, 8 * t + 8).flatMap((pass) => pass[text])),
    );
  };
  const [found, others] = [await orders(0), await orders(1)];
  for (const order of found) expect(order.toSorted((a, b) => a - b)).toEqual([3, 4, 5, 6, 7, 8, 9, 10]);
  expect(new Set([...found, ...others].map(String)).size).toBe(8);
});

it("gibbs draws from all tokens during burn_in, half of the iterations by default, and then from top_k", async () => {
  const run = async (options: object, burn_in?: number) => {
    const gibbs = generator({ strategy: "gibbs", iterations: 4, ...(burn_in !== undefined && { burn_in }) });
    const asked = { max_tokens: 10, temperature: 2, seed: 0, ...options };
    return (await gibbs.generate(["the cat"], asked))[0][0].token_ids;
  };
  const greedy = await run({ temperature: 0 });
  expect(await run({ top_k: 1 }, 0)).toEqual(greedy);
  const free = await run({});
  expect(await run({ top_k: 1 }, 4)).toEqual(free);
  expect(free).not.toEqual(greedy);
  const half = await run({ top_k: 4 });
  expect(half).toEqual(await run({ top_k: 4 }, 2));
  for (const other of [1, 3]) expect(half).not.toEqual(await run({ top_k: 4 }, other));
});

it.each(["mask-predict", "gibbs"] as const)(
  "%s draws every token of every iteration by a number of its own",
  async (strategy) => {
    // Zeros give every token the same chance, so that a text shows the numbers that it was drawn by.
    const flat = randomBert("ForMaskedLM", { initializer_range: 0 });
    const run = async (iterations: number) => {
      const made = new MaskedGenerator(flat, tokenizer, { strategy, iterations, burn_in: iterations });
      const [[{ token_ids }]] = await made.generate(["the cat"], { max_tokens: 30, seed: 3 });
      return token_ids;
    };
    const [once, twice] = [await run(1), await run(2)];
    // Of 16 tokens, 30 draws leave 2.3 out on average; fewer than 9 kinds have a chance below one in a million.
    expect(new Set(once).size).toBeGreaterThan(8);
    // Those written twice agree by chance, one in 16; with the same numbers all would.
    const changed = twice.filter((id, i) => id !== once[i]).length;
    expect(changed).toBeGreaterThan(strategy === "gibbs" ? 20 : 9);
  },
);

/** The likeliest token that is not special at one place after "the cat", and its share among those. */
async function guess(words: readonly string[], place: number): Promise<{ token: string; score: number }> {
  const ids = ["[CLS]", "the", "cat", ...words, "[SEP]"].map((word) => tokenizer.tokenToId(word)!);
  const [row] = await new TextReader(model, tokenizer).logits([{ ids }], [[3 + place]]);
  const scores = [...row].map((x, id) => (tokenizer.isSpecial(id) ? 0 : Math.exp(x)));
  const best = scores.indexOf(Math.max(...scores));
  return { token: tokenizer.idToToken(best)!, score: scores[best] / scores.reduce((a, b) => a + b) };
}

it("refuses other models, options out of range and prompts without room", async () => {
  const classifier = randomBert("ForSequenceClassification");
  expect(() => new MaskedGenerator(classifier, tokenizer)).toThrow(
    "a BertForSequenceClassification guesses no masked tokens",
  );
  expect(() => generator({ iterations: 0 })).toThrow("iterations must be a whole number above 0");
  expect(() => generator({ burn_in: 11 })).toThrow("burn_in must be a whole number up to the 10 iterations");
  expect(() => generator({ strategy: "beam" as "gibbs" })).toThrow("strategy must be mask-predict or gibbs");
  const run = (options: object, prompt: string | number[] = "a") => generator().generate([prompt], options);
  await expect(run({ temperature: -1 })).rejects.toThrow("temperature must be from 0 to 2");
  await expect(run({ top_p: 0 })).rejects.toThrow("top_p must be above 0");
  await expect(run({ maxTokens: 3 })).rejects.toThrow("did you mean max_tokens?");
  await expect(run({ seed: 0.5 })).rejects.toThrow("seed must be a whole number");
  await expect(run({}, [99])).rejects.toThrow("a token of the prompt must be from 0 to 20");
  await expect(run({}, "cat ".repeat(40))).rejects.toThrow(
    "the prompt has 42 tokens and the model reads 40: there is no room to write",
  );
});
