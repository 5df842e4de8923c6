import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import { parsePretrainConfig } from "../train/config.ts";
import { countTokens, type Span, splitDocuments, storyCorpus } from "../train/data/index.ts";
import { prepareData } from "../train/prepare_data.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const folder = mkdtempSync(join(tmpdir(), "kiln-split-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Documents of these lengths, one after the other, three bytes a token. */
function documentsOf(lengths: readonly number[]): Span[] {
  let start = 0;
  return lengths.map((length) => {
    const span = { start, length, bytes: 3 * length };
    start += length;
    return span;
  });
}

describe("splitDocuments", () => {
  const lengths = fc.array(fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 500, max: 5000 })), {
    minLength: 1,
    maxLength: 60,
  });

  test("holds out the asked share of the tokens, whatever the lengths, and loses no token and no byte", () => {
    fc.assert(
      fc.property(
        lengths,
        fc.double({ min: 0.01, max: 0.5, noNaN: true }),
        fc.nat(),
        (some, fraction, seed) => {
          const all = documentsOf(some);
          fc.pre(some.some((length) => length >= 4));
          const { train, validation } = splitDocuments(all, { fraction, seed });
          const pieces = [...train, ...validation].sort((a, b) => a.start - b.start);
          let end = 0;
          for (const piece of pieces) {
            expect(piece.start).toBe(end);
            end += piece.length;
          }
          expect(end).toBe(countTokens(all));
          expect(pieces.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(3 * end);
          for (const side of [train, validation]) {
            expect(side.some((span) => span.length >= 2)).toBe(true);
          }
          // Half of a short document, two tokens where a side would have none, and the rounding of each cut.
          const target = fraction * end;
          const longest = Math.max(0, ...some.filter((length) => length <= target));
          const bound = longest / 2 + 2 + 2 * some.filter((length) => length > target).length;
          expect(Math.abs(countTokens(validation) - target)).toBeLessThanOrEqual(bound);
        },
      ),
    );
  });

  test("two files of 254 kB and 14 bytes: the large one is learned from", () => {
    for (let seed = 0; seed < 20; seed++) {
      const { train, validation } = splitDocuments(documentsOf([166_982, 12]), { fraction: 0.05, seed });
      expect(countTokens(train)).toBe(166_994 - 8349);
      expect(countTokens(validation)).toBe(8349);
    }
  });

  test("every long document gives its end, so that three books are all measured", () => {
    const { train, validation } = splitDocuments(documentsOf([1000, 2000, 3000]), { fraction: 0.1, seed: 1 });
    expect(train.map(({ length }) => length)).toEqual([900, 1800, 2700]);
    expect(validation).toEqual([
      { start: 900, length: 100, bytes: 300 },
      { start: 2800, length: 200, bytes: 600 },
      { start: 5700, length: 300, bytes: 900 },
    ]);
  });

  test("short documents stay whole, are chosen by the seed, and stay held out when others are added", () => {
    const few = documentsOf(Array(500).fill(10));
    const held = splitDocuments(few, { fraction: 0.2, seed: 5 }).validation;
    expect(held).toHaveLength(100);
    for (const span of held) expect(few).toContainEqual(span);
    const more = splitDocuments(documentsOf(Array(501).fill(10)), { fraction: 0.2, seed: 5 }).validation;
    expect(held.filter((span) => !more.some(({ start }) => start === span.start))).toEqual([]);
    expect(splitDocuments(few, { fraction: 0.2, seed: 6 }).validation).not.toEqual(held);
  });

  test("nothing for fraction 0; a corpus too small says so", () => {
    const one = documentsOf([100]);
    expect(splitDocuments(one, { fraction: 0, seed: 1 })).toEqual({ train: one, validation: [] });
    expect(() => splitDocuments(one, { fraction: 1, seed: 1 })).toThrow(/fraction/);
    expect(splitDocuments(documentsOf([4, 1]), { fraction: 0.01, seed: 1 }).validation).toEqual([
      { start: 2, length: 2, bytes: 6 },
    ]);
    expect(() => splitDocuments(documentsOf([3]), { fraction: 0.5, seed: 1 })).toThrow(
      /too small to hold out/,
    );
  });
});

describe("prepareData", () => {
  const stories = [...storyCorpus({ seed: 3, stories: 60 })];
  const jsonl = (name: string, texts: string[]) => {
    const file = join(folder, name);
    writeFileSync(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
    return file;
  };
  const prepare = async (out: string, data: object, train: object = {}) => {
    const settings = { data, train, tokenizer: { vocab_size: 300 }, out_dir: join(folder, out) };
    const lines: string[] = [];
    const prepared = await prepareData(parsePretrainConfig(JSON.stringify(settings), "test"), 512, (line) =>
      lines.push(line),
    );
    prepared.close();
    return { ...prepared, lines };
  };

  test("the training seed does not move the split, data.seed does; both sizes are said", async () => {
    const path = jsonl("all.jsonl", stories);
    const first = await prepare("a", { path });
    const other = await prepare("b", { path }, { seed: 7 });
    expect(other.validation.documents).toEqual(first.validation.documents);
    expect(other.hash).toBe(first.hash);
    const moved = await prepare("c", { path, seed: 7 });
    expect(moved.validation.documents).not.toEqual(first.validation.documents);
    expect(moved.hash).not.toBe(first.hash);
    const [train, held] = [first.train, first.validation].map(({ documents }) => countTokens(documents));
    expect(first.lines).toContainEqual(
      expect.stringMatching(
        `^training data: ${train!.toLocaleString("en")} tokens in \\d+ documents, from .*all.jsonl`,
      ),
    );
    expect(first.lines).toContainEqual(
      expect.stringMatching(
        `^validation data: ${held!.toLocaleString("en")} tokens in \\d+ documents?, held out`,
      ),
    );
  });

  test("named validation files are measured whole, and all of the data is learned from", async () => {
    const path = jsonl("train.jsonl", stories.slice(0, 50));
    const validation_path = jsonl("held.jsonl", stories.slice(50));
    const { train, validation, tokenizer, hash, lines } = await prepare("d", { path, validation_path });
    expect(train.documents).toHaveLength(50);
    expect(validation.documents).toHaveLength(10);
    const ids = await tokenizer.encodeBatch(stories.slice(50), { addSpecialTokens: false });
    expect(countTokens(validation.documents)).toBe(ids.reduce((sum, { length }) => sum + length + 2, 0));
    expect(lines.at(-1)).toMatch(/^validation data: .* tokens in 10 documents, from .*held.jsonl$/);
    jsonl("held.jsonl", stories.slice(51));
    expect((await prepare("d", { path, validation_path })).hash).not.toBe(hash);
  });

  test("kiln train pretrain --validation-data: a missing file is one line that names it", () => {
    const kiln = new URL("../bin/kiln.mjs", import.meta.url).pathname;
    const none = join(folder, "none.txt");
    const args = ["train", "pretrain", "--validation-data", none, "--out", join(folder, "e")];
    const { stderr, status } = spawnSync(process.execPath, [kiln, ...args], { encoding: "utf8" });
    expect(stderr).toMatch(/none\.txt does not exist/);
    expect(status).toBe(1);
  });
});
