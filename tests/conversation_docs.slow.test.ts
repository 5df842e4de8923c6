import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { createModel, saveModel, tinyllmConfig } from "../models/index.ts";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";

/** Every command of docs/conversation-data.md, in a folder of its own, in order; and a short run on what they built. */
const root = new URL("..", import.meta.url).pathname;
const out = mkdtempSync(join(tmpdir(), "kiln-data-docs-"));
afterAll(() => rmSync(out, { recursive: true }));
const page = readFileSync(join(root, "docs/conversation-data.md"), "utf8");
const commands = [...page.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) => block.trim().split("\n"));

beforeAll(async () => {
  await openDevice();
  const tokenizer = new Tokenizer(
    trainBpe(["user assistant system once upon a time there was"], {
      vocab_size: 300,
      special_tokens: ["<|endoftext|>"],
    }),
    { tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" } },
  );
  const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2 };
  const config = tinyllmConfig({
    ...sizes,
    vocab_size: tokenizer.vocabSize,
    eos_token_id: 0,
    bos_token_id: 0,
  });
  await saveModel(join(out, "runs/demo/model"), createModel(config).init(1), tokenizer);
  mkdirSync(join(out, "docs/configs"), { recursive: true });
  cpSync(join(root, "docs/configs/conversations.yaml"), join(out, "docs/configs/conversations.yaml"));
});

function shell(command: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const kiln = `"${process.execPath}" "${join(root, "bin/kiln.mjs")}"`;
  return new Promise((done) => {
    execFile(
      "sh",
      ["-c", command.replace(/(^|\| )kiln /g, `$1${kiln} `)],
      { cwd: out },
      (error, stdout, stderr) =>
        done({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
    );
  });
}

const prints: Record<string, RegExp> = {
  "kiln data log": /^[0-9a-f-]{36}\n$/,
  "kiln stories": /^$/,
  "kiln data import": /301 conversations, 0 left out/,
  "kiln data stats": /total_conversations +301\n/,
  "kiln data preview": /301 conversations, \d+ dropped \(/,
  "kiln data clean": /301 conversations, \d+ dropped|"text":"mail \[EMAIL\]"/,
  "kiln data build": /read +301\n[\s\S]*kept +\d+\ntrain\.jsonl +\d+ rows/,
  "kiln train sft": /conversations +\d+/,
  "kiln data format": /301 rows of 301 conversations, 0 left out/,
  "kiln data export": /[0-9a-f]{64} {2}exports\/conversations\.parquet/,
};

it.each(commands)("%s", async (command) => {
  const [, pattern] = Object.entries(prints).find(([start]) => command.includes(start))!;
  const { code, stdout, stderr } = await shell(command);
  expect([code, stderr.includes("kiln: ")], stderr).toEqual([0, false]);
  expect(command.includes("kiln stories") ? stdout : `${stdout}${stderr}`).toMatch(pattern);
});

it("a run learns from the dataset, by the settings that it holds", async () => {
  writeFileSync(
    join(out, "settings.yaml"),
    "training: { base: runs/demo/model, sequence_length: 256, batch: 2 }\n",
  );
  const built = await shell(
    "kiln data build settings.yaml all.jsonl --out runs/data2 --set split.exact=true",
  );
  expect(built.stderr).toContain("next: kiln train sft runs/data2/sft.yaml");
  const run = await shell(
    "kiln train sft runs/data2/sft.yaml --out runs/tuned --set train.epochs=null train.steps=2 train.warmup_steps=1 sample.max_tokens=4 eval.tokens=64",
  );
  expect(run.stderr).toMatch(/model: runs\/tuned\/model/);
  expect(run.code).toBe(0);
});
