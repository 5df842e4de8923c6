import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { type LabelScore, pipeline } from "../models/pipeline.ts";
import { labels, randomBert, texts, wordPieces } from "./support/word_pieces.ts";

const folder = mkdtempSync(join(tmpdir(), "kiln-commands-"));
const tokenizer = wordPieces();
afterAll(() => rmSync(folder, { recursive: true }));
beforeAll(async () => {
  await openDevice();
});

const kiln = async (args: string[], input = "") => {
  const child = promisify(execFile)("node", ["bin/kiln.mjs", ...args], { env: process.env });
  child.child.stdin!.end(input);
  return await child;
};
const run = async (args: string[], input = "") =>
  (await kiln(args, input)).stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

it("classify, fill-mask and embed answer arguments, files and standard input in JSON Lines", async () => {
  const path = join(folder, "classifier");
  await randomBert("ForSequenceClassification", labels).savePretrained(path, tokenizer);
  const classify = await pipeline("text-classification", path);
  const [found] = (await classify(texts[0])) as LabelScore[];
  const file = join(folder, "texts.txt");
  writeFileSync(file, `${texts[0]}\r\n\n${texts[1]}`);
  const [lines, ranked] = await Promise.all([
    run(["classify", path, "--file", file]),
    run(["classify", path, "--top-k", "3"], `${texts[0]}\n`),
  ]);
  expect(lines.map(({ text }) => text)).toEqual(texts.slice(0, 2));
  expect(lines[0]).toEqual({ text: texts[0], ...found });
  expect(ranked).toEqual([{ text: texts[0], labels: await classify(texts[0], { top_k: 3 }) }]);

  const masked = join(folder, "masked");
  await randomBert("ForMaskedLM").savePretrained(masked, tokenizer);
  mkdirSync(join(masked, "1_Pooling"));
  writeFileSync(join(masked, "1_Pooling/config.json"), JSON.stringify({ pooling_mode_cls_token: true }));
  const embed = await pipeline("feature-extraction", masked);
  const [fills, vectors] = await Promise.all([
    run(["fill-mask", masked, "a [MASK]", "[MASK] cat", "--top-k", "2"]),
    run(["embed", masked, texts[0]]),
  ]);
  expect(fills.map((line) => line.fills.length)).toEqual([2, 2]);
  const { data } = await embed(texts[0], { pooling: "cls", normalize: true });
  expect(vectors).toEqual([{ text: texts[0], embedding: [...data] }]);
  await expect(run(["classify", masked, "a"])).rejects.toThrow(/no head for text-classification/);
  await expect(run(["classify", path, "--file", join(folder, "none")])).rejects.toThrow(
    /none does not exist/,
  );
});

it("sample and eval perplexity take a masked language model, and classify says which texts it cut", async () => {
  const masked = join(folder, "writer");
  await randomBert("ForMaskedLM").savePretrained(masked, tokenizer);
  const sample = (...flags: string[]) => kiln(["sample", masked, "--prompt", "the cat", ...flags]);
  const how = ["--max-tokens", "5", "--seed", "3", "--iterations", "2"];
  const [one, same, gibbs] = await Promise.all([
    sample(...how),
    sample(...how, "--strategy", "mask-predict"),
    sample(...how, "--strategy", "gibbs", "--burn-in", "1", "--top-k", "4"),
  ]);
  expect(one.stdout).toMatch(/^the cat .*\n$/);
  expect(same.stdout).toBe(one.stdout);
  expect(gibbs.stdout).toMatch(/^the cat .*\n$/);
  const path = join(folder, "classifier-of-long-texts");
  await randomBert("ForSequenceClassification", labels).savePretrained(path, tokenizer);
  await expect(kiln(["sample", path])).rejects.toThrow(/guesses no masked tokens, so it writes no text/);
  const { stderr } = await kiln(["classify", path, "cat ".repeat(60), "good"]);
  expect(stderr).toMatch(/1 text is longer than the 40 tokens that the model reads \(the longest has 62\)/);
  const [values] = await run(["eval", "perplexity", masked, "--json", "--data", textFile("the cat sat\n")]);
  expect(values).toMatchObject({ documents: 1, tokens: 3, pseudo_perplexity: expect.any(Number) });
});

function textFile(text: string): string {
  const path = join(folder, "data.txt");
  writeFileSync(path, text);
  return path;
}
