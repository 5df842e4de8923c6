import { existsSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { loadModel } from "../models/formats/hf_directory.ts";
import { attribute } from "../serve/app/explain/attribution.ts";
import { logLikelihoods } from "../train/eval/likelihood.ts";

const data = new URL("../../shared/data/", import.meta.url).pathname;
const [folder, stories] = ["models/stories260K-hf", "text/tinystories_sample2000.jsonl.gz"].map(
  (name) => data + name,
);
const hasAll = existsSync(folder) && existsSync(stories);

// The faithfulness check of the design: what attribution calls important must be what the model needs.
it.skipIf(!hasAll)(
  "without the top 20% of a prompt a target loses more than without a random 20%, paired (skipped: no ../shared/data)",
  async () => {
    await openDevice();
    const { model, tokenizer } = await loadModel(folder);
    const texts = gunzipSync(readFileSync(stories)).toString().trim().split("\n").slice(0, 60);
    let seed = 7;
    const random = () => {
      seed = (seed * 1103515245 + 12345) % 2 ** 31;
      return seed / 2 ** 31;
    };
    const drops: Record<string, { top: number; random: number }[]> = {
      gradientTimesInput: [],
      integratedGradients: [],
    };
    const gaps: number[] = [];
    for (const line of texts) {
      const { text, story } = JSON.parse(line) as { text?: string; story?: string };
      const all = await tokenizer.encode(text ?? story!);
      const ids = all.slice(0, 41);
      if (ids.length < 41) continue;
      const from = 40;
      const found = await attribute(model, ids, from, tokenizer.eosId!);
      gaps.push(found.gap / Math.abs(found.logprob - found.baseline));
      // The begin-of-text token stays: without it every text is a strange one.
      const places = Array.from({ length: from - 1 }, (_, i) => i + 1);
      const count = Math.round(0.2 * places.length);
      const shuffled = places.map((place) => ({ place, key: random() })).sort((a, b) => a.key - b.key);
      const without = async (gone: readonly number[]) => {
        const tokens = ids.filter((_, t) => !gone.includes(t));
        for await (const { logLikelihood } of logLikelihoods(model, [{ tokens, from: tokens.length - 1 }]))
          return found.logprob - logLikelihood;
        throw new Error("there is no likelihood");
      };
      const byChance = await without(shuffled.slice(0, count).map(({ place }) => place));
      for (const method of ["gradientTimesInput", "integratedGradients"] as const) {
        const order = places.toSorted((a, b) => found[method][b] - found[method][a]);
        drops[method].push({ top: await without(order.slice(0, count)), random: byChance });
      }
    }
    const median = gaps.toSorted((a, b) => a - b)[Math.floor(gaps.length / 2)];
    console.log(`completeness gap: median ${(100 * median).toFixed(0)}% of the difference`);
    for (const [method, pairs] of Object.entries(drops)) {
      expect(pairs.length).toBeGreaterThanOrEqual(50);
      const more = pairs.map(({ top, random: chance }) => top - chance);
      const mean = more.reduce((a, b) => a + b, 0) / more.length;
      const deviation = Math.sqrt(more.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (more.length - 1));
      const average = (key: "top" | "random") =>
        pairs.reduce((sum, pair) => sum + pair[key], 0) / pairs.length;
      console.log(
        `${method}: ${pairs.length} prompts, log p falls by ${average("top").toFixed(3)} (top 20%) and ${average("random").toFixed(3)} (random 20%), t = ${(mean / (deviation / Math.sqrt(more.length))).toFixed(2)}`,
      );
      // One-sided paired t-test at 1%, 50 degrees of freedom and more.
      expect(mean / (deviation / Math.sqrt(more.length))).toBeGreaterThan(2.4);
    }
  },
);
