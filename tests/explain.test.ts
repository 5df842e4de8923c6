import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { add, mul, openDevice, sub } from "../kernels/index.ts";
import type { CausalLM } from "../models/decoder.ts";
import { attribute } from "../serve/app/explain/attribution.ts";
import {
  attentionOf,
  choiceLines,
  choicesOf,
  explain,
  gapLine,
  rolloutOf,
} from "../serve/app/explain/explain.ts";
import { explanationHtml, pageFile, writeExplanation } from "../serve/app/explain/page.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import { difference, positions, read, row, tinyGpt2, tinyLlama, tokens } from "./support/tiny_decoders.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-explain-"));
afterAll(() => rmSync(root, { recursive: true }));
const tokenizer = new Tokenizer(
  trainBpe(["</script>"], { vocab_size: 257, special_tokens: ["<|endoftext|>"] }),
);
const length = tokens.length;
const from = 20;

describe.each([
  ["Llama", () => tinyLlama({ vocab_size: 257 })],
  ["GPT-2", () => tinyGpt2({ vocab_size: 257 })],
])("%s", (_, make) => {
  let model: CausalLM;
  beforeAll(async () => {
    await openDevice();
    model = make();
  });
  afterAll(() => model.dispose());

  /** log p of the tokens from `from` on, in float64 from logits, with embeddings that are changed. */
  async function logprob(change = (embedded: Tensor, _nothing: Tensor) => embedded): Promise<number> {
    const logits = await scope(() =>
      noGrad(() => {
        const context = { positions: row(positions) };
        const nothing = row(tokens.map((id, t) => (t < from ? 256 : id)));
        const [embedded, origin] = [row(tokens), nothing].map((ids) => model.embed(ids, context.positions));
        return model.logits(model.hiddenFrom(change(embedded, origin), context));
      }),
    ).data();
    let total = 0;
    for (let t = from; t < length; t++) {
      const line = Array.from(logits.slice((t - 1) * 257, t * 257));
      total += line[tokens[t]] - Math.log(line.reduce((sum, x) => sum + Math.exp(x), 0));
    }
    return total;
  }

  it("alternatives are the likeliest of the softmax, with its entropy", async () => {
    const choices = await choicesOf(model, tokenizer, tokens, { from, count: 3 });
    const logits = await read(model);
    expect(choices).toHaveLength(length - from);
    choices.forEach(({ probability, entropy, alternatives }, i) => {
      const line = logits.slice((from + i - 1) * 257, (from + i) * 257);
      const shares = line.map((x) => Math.exp(x) / line.reduce((sum, y) => sum + Math.exp(y), 0));
      const order = shares.map((_, id) => id).sort((a, b) => shares[b] - shares[a]);
      expect(alternatives.map(({ id }) => id)).toEqual(order.slice(0, 3));
      expect(alternatives[0].probability).toBeCloseTo(shares[order[0]], 5);
      expect(probability).toBeCloseTo(shares[tokens[from + i]], 5);
      expect(entropy).toBeCloseTo(-shares.reduce((sum, p) => sum + p * Math.log(p), 0), 4);
    });
    expect(choiceLines(choices)[0]).toMatch(
      /^".*" +\d+\.\d% {2}entropy \d\.\d\d {2}("\S+" \d+\.\d%( {2})?){3}$/,
    );
  });

  it("gradient x input is the slope of log p where a token's embedding is scaled", async () => {
    const { gradientTimesInput, logprob: whole } = await attribute(model, tokens, from, 256);
    expect(whole).toBeCloseTo(await logprob(), 3);
    expect(gradientTimesInput).toHaveLength(from);
    const step = 0.01;
    for (const t of [0, 7, from - 1]) {
      const scaled = (by: number) => {
        const factors = tokens.map((_, i) => (i === t ? by : 1));
        return logprob((x) => mul(x, tensor(factors, [1, length, 1])));
      };
      const slope = ((await scaled(1 + step)) - (await scaled(1 - step))) / (2 * step);
      expect(Math.abs(gradientTimesInput[t] - slope)).toBeLessThan(0.02 * Math.max(1, Math.abs(slope)));
    }
  });

  it("integrated gradients sum to what the prompt adds, up to the gap that is told", async () => {
    const { integratedGradients, logprob: whole, baseline, gap } = await attribute(model, tokens, from, 256);
    const at = (share: number) => logprob((x, nothing) => add(nothing, mul(sub(x, nothing), share)));
    expect(baseline).toBeCloseTo(await at(0), 3);
    const total = integratedGradients.reduce((a, b) => a + b, 0);
    expect(gap).toBeCloseTo(Math.abs(total - (whole - baseline)), 6);
    // The same midpoints of the same path, by differences.
    let slopes = 0;
    for (let i = 0.5; i < 16; i++) slopes += ((await at((i + 0.1) / 16)) - (await at((i - 0.1) / 16))) / 0.2;
    expect(Math.abs(total - slopes)).toBeLessThan(0.02 * Math.max(1, Math.abs(slopes)));
  });

  it("attention rows are distributions over what came before, and watching them changes nothing", async () => {
    const layers = await attentionOf(model, tokens);
    expect(layers.map((heads) => heads.length)).toEqual([4, 4]);
    for (const map of layers.flat())
      for (let t = 0; t < length; t++) {
        const line = map.slice(t * length, (t + 1) * length);
        expect(line.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
        expect(Math.max(0, ...line.slice(t + 1))).toBe(0);
      }
    const seen = scope(() =>
      noGrad(() => {
        const context = { positions: row(positions), seeWeights: () => {} };
        return model.logits(model.hidden(row(tokens), context));
      }),
    );
    expect(difference(Array.from(await seen.data()), await read(model))).toBeLessThan(1e-3);
  });

  it("explains in one page that loads nothing and that no token ends", async () => {
    const ids = [...(await tokenizer.encode("a</script><b>")), 5];
    const explanation = await explain(model, tokenizer, ids, ids.length - 1);
    const html = explanationHtml(explanation, "</script><img src=x>");
    expect(html).not.toMatch(/https?:|<(img|link|iframe)|<script[^>]* src|@import|url\(/i);
    expect(html.match(/<\/script>/g)).toHaveLength(2);
    expect(html).toContain(gapLine(explanation.attribution).slice(0, 20));
    const path = join(root, "why.html");
    writeExplanation(pageFile(path), explanation, "one");
    writeExplanation(pageFile(path), explanation, "two");
    expect(readFileSync(path, "utf8")).toContain('"title":"two"');
  });

  it("refuses what is too long, and what has no prompt or nothing after it", async () => {
    const long = Array.from({ length: 513 }, () => 1);
    await expect(attribute(model, long, 5, 256)).rejects.toThrow(
      /has 513 tokens, and (512|64) can be explained/,
    );
    await expect(attribute(model, tokens, 0, 256)).rejects.toThrow("nothing to explain");
    await expect(attribute(model, tokens, length, 256)).rejects.toThrow("nothing to explain");
  });
});

it("rollout is the product of the layers' mean heads, each with half of its input", () => {
  const uneven = (seed: number) => {
    const map = new Float32Array(9);
    for (let t = 0; t < 3; t++) {
      let left = 1;
      for (let s = 0; s <= t; s++) {
        map[t * 3 + s] = s === t ? left : left / (seed + s + 1);
        left -= map[t * 3 + s];
      }
    }
    return map;
  };
  const layers = [
    [uneven(1), uneven(2)],
    [uneven(3), uneven(4)],
  ];
  let product = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  for (const heads of layers) {
    const mixed = product.map((_, i) => (i % 4 === 0 ? 0.5 : 0) + (heads[0][i] + heads[1][i]) / 4);
    product = product.map((_, i) =>
      [0, 1, 2].reduce((sum, k) => sum + mixed[Math.floor(i / 3) * 3 + k] * product[k * 3 + (i % 3)], 0),
    );
  }
  Array.from(rolloutOf(layers, 3)).forEach((value, i) => {
    expect(value).toBeCloseTo(product[i], 6);
  });
});

it("a page replaces no other file", () => {
  const path = join(root, "mine.html");
  writeFileSync(path, "precious");
  expect(() => pageFile(path)).toThrow("exists and is no explanation");
  expect(() => pageFile("why.txt")).toThrow("ends in .html");
  expect(existsSync(join(root, "why.txt"))).toBe(false);
});
