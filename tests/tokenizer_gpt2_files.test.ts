import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Tokenizer, type TokenizerJson, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

const data = join(import.meta.dirname, "../../shared/data");
const hasData = existsSync(data);

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "kiln-gpt2-"));
});
afterAll(() => rmSync(root, { recursive: true }));

/** A folder of these files; objects as JSON. */
function folder(name: string, files: Record<string, unknown>): string {
  const path = join(root, name);
  mkdirSync(path);
  for (const [file, content] of Object.entries(files)) {
    writeFileSync(join(path, file), typeof content === "string" ? content : JSON.stringify(content));
  }
  return path;
}

/** The same tokenizer in GPT-2's own files. */
function asGpt2Files({ model }: TokenizerJson): Record<string, unknown> {
  const merges = (model.merges as (string | [string, string])[]).map((pair) => [pair].flat().join(" "));
  return { "vocab.json": model.vocab, "merges.txt": `#version: 0.2\n${merges.join("\n")}\n` };
}

const texts = [
  "Once upon a time, there was a dog.\n\n  It's 3,141 years old.\tÄé 日本語 🎈 \u0000",
  "a<|endoftext|>b",
  "",
  " ",
];

describe("vocab.json with merges.txt", () => {
  const json = trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 400, bos_token: null });
  const files = asGpt2Files(json);

  test("encodes and decodes as the tokenizer.json of the same vocabulary", async () => {
    const [old, now] = [Tokenizer.load(folder("plain", files)), new Tokenizer(json)];
    for (const text of texts) {
      const ids = await now.encode(text);
      expect(await old.encode(text)).toEqual(ids);
      expect(old.decode(ids, { skipSpecialTokens: false })).toBe(text);
    }
    expect([old.eosId, old.vocabSize]).toEqual([now.eosId, now.vocabSize]);
    expect(old.decode(await old.encode("a<|endoftext|>b"))).toBe("ab");
    // What is loaded can be saved, in the form of today.
    old.save(join(root, "saved"));
    expect(Tokenizer.load(join(root, "saved")).hash()).toBe(old.hash());
  });

  test("with the tokens and settings of its neighbours", async () => {
    const path = folder("settings", {
      ...files,
      "tokenizer_config.json": {
        add_bos_token: true,
        add_prefix_space: true,
        tokenizer_class: "GPT2Tokenizer",
      },
      "special_tokens_map.json": {
        bos_token: "<s>",
        eos_token: { content: "</s>" },
        pad_token: "<|endoftext|>",
      },
      "added_tokens.json": { "<s>": 400, "</s>": 401 },
    });
    const [old, now] = [Tokenizer.load(path), new Tokenizer(json)];
    expect([old.vocabSize, old.bosId, old.eosId, old.addsBos]).toEqual([402, 400, 401, true]);
    expect(await old.encode("Once</s>")).toEqual([400, ...(await now.encode(" Once")), 401]);
  });

  // The vocabulary of transformers' own test of GPT2Tokenizer, and the ids that it wants.
  test("reads what transformers' test reads", async () => {
    const tokens = "l o w e r s t i d n Ġ Ġl Ġn Ġlo Ġlow er Ġlowest Ġnewer Ġwider <unk> <|endoftext|>".split(
      " ",
    );
    const path = folder("transformers", {
      "vocab.json": Object.fromEntries(tokens.map((token, id) => [token, id])),
      "merges.txt": "#version: 0.2\nĠ l\nĠl o\nĠlo w\ne r\n",
      "special_tokens_map.json": { unk_token: "<unk>" },
    });
    const tokenizer = Tokenizer.load(path);
    expect(await tokenizer.encode(" lower newer")).toEqual([14, 15, 10, 9, 3, 2, 15]);
    expect(await tokenizer.encode("lx")).toEqual([0, 19]);
    expect(tokenizer.eosId).toBe(20);
  });

  test.each<[string, Record<string, unknown>, RegExp]>([
    [
      "half of the pair",
      { "vocab.json": {} },
      /has no tokenizer.json \(nor vocab.json with merges.txt, nor vocab.txt\)/,
    ],
    [
      "of another kind",
      { ...files, "tokenizer_config.json": { tokenizer_class: "Qwen2Tokenizer" } },
      /of a Qwen2Tokenizer, which are read for GPT2Tokenizer only; give a folder with a tokenizer.json/,
    ],
    ["a damaged vocabulary", { ...files, "vocab.json": "{" }, /vocab.json is not valid JSON/],
    [
      "no merges",
      { ...files, "merges.txt": "a b c\n" },
      /merges.txt should hold two tokens a line; it has "a b c"/,
    ],
    [
      "a merge of nothing known",
      { ...files, "merges.txt": "日 本\n" },
      /vocab.json with merges.txt: not a valid/,
    ],
  ])("%s is named", (name, content, message) => {
    expect(() => Tokenizer.load(folder(name, content))).toThrow(message);
  });

  test.skipIf(!hasData)(
    hasData ? "GPT-2's own files" : "needs ../shared/data, which is not here",
    async () => {
      const read = (file: string) => readFileSync(join(data, "tokenizers/gpt2", file));
      const path = folder("gpt2", {
        "vocab.json": read("encoder.json").toString(),
        "merges.txt": read("vocab.bpe").toString(),
      });
      const old = Tokenizer.load(path);
      const now = new Tokenizer(JSON.parse(gunzipSync(read("tokenizer.json.gz")).toString()));
      const { text } = JSON.parse(read("gpt2_encoded_tokens.json").toString());
      for (const sample of [...texts, text])
        expect(await old.encode(sample)).toEqual(await now.encode(sample));
      expect([old.vocabSize, old.eosId]).toEqual([50257, 50256]);
      expect(Tokenizer.load(join(data, "models/tiny_gpt2")).vocabSize).toBe(21);
    },
  );
});
