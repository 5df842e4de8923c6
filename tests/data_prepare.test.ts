import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { countTokens, spreadSample, storyCorpus } from "../train/data/index.ts";
import { type Dataset, openTextData } from "../train/data/text_data.ts";
import { parsePretrainConfig } from "../train/recipes/pretrain.ts";
import { parseOverrides } from "../train/settings/load.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const folder = mkdtempSync(join(tmpdir(), "kiln-prepare-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("openTextData", () => {
  const stories = [...storyCorpus({ seed: 3, stories: 60 })];
  const jsonl = (name: string, texts: string[]) => {
    const file = join(folder, name);
    writeFileSync(file, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
    return file;
  };
  const prepare = async (out: string, data: object, rest: object = {}, set: string[] = []) => {
    const settings = { data, tokenizer: { vocab_size: 300 }, out_dir: join(folder, out), ...rest };
    const config = parsePretrainConfig(JSON.stringify(settings), "test", parseOverrides(set));
    const lines: string[] = [];
    const prepared = await openTextData(config, 512, { say: (line) => lines.push(line) });
    const texts = ({ shard, documents }: Dataset) =>
      documents.map(({ start, length }) => {
        const ids = new Int32Array(length);
        shard.read(start, length, ids);
        return prepared.tokenizer.decode(ids, { skipSpecialTokens: false });
      });
    const [train, validation] = [texts(prepared.train), texts(prepared.validation)];
    prepared.close();
    return { ...prepared, lines, texts: { train, validation } };
  };
  const file = (name: string, content: string) => {
    const path = join(folder, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, content);
    return path;
  };

  test("the training seed does not move the split, data.seed does; both sizes are said", async () => {
    const path = jsonl("all.jsonl", stories);
    const first = await prepare("a", { path });
    const other = await prepare("b", { path }, { train: { seed: 7 } });
    expect(other.validation.documents).toEqual(first.validation.documents);
    const moved = await prepare("c", { path, seed: 7 });
    expect(moved.validation.documents).not.toEqual(first.validation.documents);
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

  test.skipIf(process.platform === "win32")("a file that may not grow is one line that names it", () => {
    const kiln = new URL("../bin/kiln.mjs", import.meta.url).pathname;
    const out = join(folder, "full");
    const args = ["train", "pretrain", "--set", "data.corpus.stories=200", "--out", out];
    const command = 'ulimit -f 8; exec "$0" "$@"';
    const { stderr, status } = spawnSync("bash", ["-c", command, process.execPath, kiln, ...args], {
      encoding: "utf8",
    });
    expect(stderr).toMatch(/full\/tokenizer\/tokenizer.json cannot be written: EFBIG/);
    expect(status).toBe(1);
  });

  test("stops when it is told to, and leaves no half of a token file", async () => {
    const out = join(folder, "stopped");
    const config = parsePretrainConfig(
      JSON.stringify({ tokenizer: { vocab_size: 300 }, out_dir: out }),
      "test",
    );
    const controller = new AbortController();
    const prepared = openTextData(config, 512, { say: () => controller.abort(), signal: controller.signal });
    await expect(prepared).rejects.toMatchObject({
      exitCode: 130,
      message: expect.stringContaining("stopped before the first step"),
    });
    expect(readdirSync(join(out, "tokens"))).toEqual([]);
  });

  test("what ends a document is a setting, and other settings never meet the tokens of these", async () => {
    const path = file("names.txt", "emma\nolivia\r\n\nava\n");
    const all = { path, validation_fraction: 0 };
    const bos = "<|endoftext|>";
    const whole = [`${bos}emma\nolivia\r\n\nava\n${bos}`];
    const names = ["emma", "olivia", "ava"].map((name) => `${bos}${name}${bos}`);
    expect((await prepare("f", all)).texts.train).toEqual(whole);
    const lines = await prepare("f", { ...all, separator: "\n" });
    expect(lines.texts.train).toEqual(names);
    expect(lines.lines).toContain(`left out of ${path}: empty documents 1`);
    expect((await prepare("f", all, {}, ["data.separator=\\n"])).texts.train).toEqual(names);
    // A file of Windows: `\r\n` is a line end, however it is told.
    for (const told of ["\\r\\n", "\r\n"]) {
      expect((await prepare("f", all, {}, [`data.separator=${JSON.stringify(told)}`])).texts.train).toEqual(
        names,
      );
    }
    const blank = await prepare("f", all, {}, ['data.separator="\\n\\n"']);
    expect(blank.texts.train).toEqual([`${bos}emma\nolivia${bos}`, `${bos}ava\n${bos}`]);
    expect((await prepare("f", all)).texts.train).toEqual(whole);
  });

  test("names of special tokens are text, or tokens where that is asked for", async () => {
    const path = file("special.jsonl", '{"text": "one<|endoftext|>two"}\n');
    const all = { path, validation_fraction: 0 };
    const [plain, parsed] = [
      await prepare("g", all),
      await prepare("g", { ...all, parse_special_tokens: true }),
    ];
    expect(countTokens(plain.train.documents)).toBeGreaterThan(countTokens(parsed.train.documents));
    expect(plain.texts).toEqual(parsed.texts);
  });

  test("one line says what of a folder was left out, from cached tokens too", async () => {
    file("mixed/a.jsonl", '{"text": "one two three"}\n{"text": " "}\n{"text": ""}\n');
    file("mixed/b.csv", "x,y");
    const path = join(folder, "mixed");
    for (const run of [1, 2]) {
      const { lines } = await prepare("h", { path, validation_fraction: 0 });
      expect(lines, `run ${run}`).toContain(`left out of ${path}: .csv files 1, empty documents 2`);
    }
  });

  test("every character is a token where the tokenizer is of that kind; another one is <unk>", async () => {
    const text = "First Citizen:\nBefore we proceed 😀\n";
    const path = file("chars.txt", text);
    const validation_path = file("held.txt", "Citizen é");
    const { tokenizer, texts, lines } = await prepare(
      "i",
      { path, validation_path },
      { tokenizer: { kind: "char" } },
    );
    expect(tokenizer.vocabSize).toBe(2 + new Set(text).size);
    expect(texts.train).toEqual([`<|endoftext|>${text}<|endoftext|>`]);
    expect(texts.validation).toEqual(["<|endoftext|>Citizen <unk><|endoftext|>"]);
    expect(lines).toContain(`${validation_path}: tokens for text that the tokenizer does not know: 1`);
    expect(lines[0]).toBe(`tokenizer: ${tokenizer.vocabSize} tokens, one for each character of the corpus`);
  });
});

describe("the sample that a tokenizer is trained on", () => {
  const english = [...storyCorpus({ seed: 8, stories: 1500 })].map((text) => ({ text, ends: true }));
  const chinese = Array.from({ length: 40 }, () => ({ text: "从前有一只小兔子。".repeat(3000), ends: true }));
  const stream = async function* (parts: { text: string; ends: boolean }[]) {
    yield* parts;
  };
  const length = (texts: readonly string[]) => texts.reduce((sum, text) => sum + text.length, 0);

  test("is spread over the corpus: what comes last is in it as much as what comes first", async () => {
    const corpus = [...english, ...chinese];
    const all = length(corpus.map(({ text }) => text));
    const sample = await spreadSample(stream(corpus), all / 4);
    expect(length(sample)).toBeLessThanOrEqual(all / 4);
    expect(length(sample)).toBeGreaterThan(all / 6);
    const share = length(sample.filter((text) => text.includes("兔"))) / length(sample);
    const expected = length(chinese.map(({ text }) => text)) / all;
    expect(Math.abs(share - expected)).toBeLessThan(0.15);
    expect(await spreadSample(stream(corpus), all / 4)).toEqual(sample);
  });

  test("is the whole corpus where that is small, and loses no character of a long text", async () => {
    expect(await spreadSample(stream(english), 1e9)).toEqual(english.map(({ text }) => text));
    expect((await spreadSample(stream(chinese), 1e9)).join("")).toBe(
      chinese.map(({ text }) => text).join(""),
    );
  });
});
