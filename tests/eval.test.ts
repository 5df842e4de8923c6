import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { type LoadedModel, loadModel } from "../models/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { evaluatePerplexity, windowsOf } from "../train/eval/perplexity.ts";
import { TextSize } from "../train/metrics/words.ts";
import { writeReport } from "../train/report/evaluation.ts";

const data = new URL("../../shared/data/", import.meta.url).pathname;
const hasData = existsSync(data);
const folder = mkdtempSync(join(tmpdir(), "kiln-eval-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

/** A tokenizer of one token per character. */
const letters = {
  bosId: 1,
  eosId: null,
  encode: async (text: string) => [...text].map((letter) => letter.codePointAt(0)!),
} as unknown as Tokenizer;

it("windows score every token once, in order, after at most `context` tokens", async () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 40 });
  const cases = fc.tuple(fc.array(fc.array(text, { minLength: 1 }), { minLength: 1 }), fc.nat(8), fc.nat(8));
  await fc.assert(
    fc.asyncProperty(cases, async ([documents, stride, more]) => {
      const options = { stride: stride + 1, context: stride + 1 + more };
      const parts = documents.flatMap((texts) =>
        texts.map((text, i) => ({ text, ends: i === texts.length - 1 })),
      );
      const scored: string[] = [];
      let open = "";
      for await (const { tokens, from, ends } of windowsOf(
        letters,
        (async function* () {
          yield* parts;
        })(),
        options,
      )) {
        expect(from).toBeGreaterThan(0);
        expect(tokens.length - 1).toBeLessThanOrEqual(Math.max(options.context, 1));
        expect(open.endsWith(String.fromCodePoint(...tokens.slice(0, from).filter((id) => id > 1)))).toBe(
          true,
        );
        open += String.fromCodePoint(...tokens.slice(from));
        if (!ends) continue;
        scored.push(open);
        open = "";
      }
      expect(scored).toEqual(documents.map((texts) => texts.join("")));
    }),
  );
});

it("counts the words and bytes of a text alike, whole and in parts", () => {
  const unit = fc.constantFrom(" ", "\n", "é", "a", "日", "\u3000");
  fc.assert(
    fc.property(fc.array(fc.string({ unit })), (parts) => {
      const size = parts.reduce((sum, part) => sum.add(part), new TextSize());
      expect(size).toMatchObject({
        words: parts.join("").split(/\s+/).length,
        bytes: Buffer.byteLength(parts.join("")),
      });
    }),
  );
});

describe.skipIf(!hasData)("of stories260K (skipped: no ../shared/data)", () => {
  let loaded: LoadedModel;
  let stories: string;
  beforeAll(async () => {
    await openDevice();
    loaded = await loadModel(join(data, "models/stories260K-hf"));
    const lines = gunzipSync(readFileSync(join(data, "text/tinystories_sample2000.jsonl.gz")))
      .toString()
      .split("\n");
    stories = file("stories.jsonl", lines.slice(1, 3).join("\n"));
  });

  // transformers 5.18 in float64 log-softmax, windows as lm-eval's get_rolling_token_windows cuts them.
  it.each([
    [{ context: 512, stride: 512 }, 462.5975682303933 + 392.169408325574],
    [{ context: 128, stride: 128 }, 487.4992085225009 + 418.34146289564353],
    [{ context: 128, stride: 32 }, 465.6315055445276 + 395.04621826713776],
  ])("perplexities equal transformers' with windows %o", async (windows, nats) => {
    const report = await evaluatePerplexity(loaded, "stories", { data: [stories], ...windows, speed: true });
    const { values } = report as { values: Record<string, number> };
    expect(values).toMatchObject({ documents: 2, tokens: 363 + 344 });
    expect(values.token_perplexity).toBeCloseTo(Math.exp(nats / (363 + 344)), 5);
    expect(values.word_perplexity).toBeCloseTo(Math.exp(nats / values.words), 3);
    expect(values.byte_perplexity).toBeCloseTo(Math.exp(nats / values.bytes), 5);
    expect(values.bits_per_byte).toBeCloseTo(nats / values.bytes / Math.LN2, 5);
    expect(values.speed).toMatchObject({ parameters: 260032 });
    await writeReport(join(folder, "report"), report);
    const written = (name: string) => readFileSync(join(folder, "report", name), "utf8");
    expect(JSON.parse(written("report.json"))).toEqual(values);
    expect(written("report.md")).toContain("| bits_per_byte");
    expect(written("report.html")).toContain("<td>bits_per_byte</td>");
  });

  it("refuses windows that the model cannot read or that leave out tokens", async () => {
    const run = (flags: object) => evaluatePerplexity(loaded, "stories", { data: [stories], ...flags });
    await expect(run({ context: 513 })).rejects.toThrow("--context 513 is more than the 512 tokens");
    await expect(run({ context: 8, stride: 9 })).rejects.toThrow("--stride 9 is more than the context of 8");
  });
});
