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

const run = async (args: string[], input = "") => {
  const child = promisify(execFile)("node", ["bin/kiln.mjs", ...args], { env: process.env });
  child.child.stdin!.end(input);
  return (await child).stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
};

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
