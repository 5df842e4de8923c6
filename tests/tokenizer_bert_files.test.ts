import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, expect, it } from "vitest";
import { Tokenizer } from "../tokenizer/index.ts";
import { wordPieces } from "./support/word_pieces.ts";

const data = join(import.meta.dirname, "../../shared/data/tokenizers/bert");
const root = mkdtempSync(join(tmpdir(), "kiln-bert-"));
afterAll(() => rmSync(root, { recursive: true }));

let count = 0;
/** A folder of these files; objects as JSON. */
function folder(files: Record<string, unknown>): string {
  const path = join(root, `${count++}`);
  mkdirSync(path);
  for (const [file, content] of Object.entries(files))
    writeFileSync(join(path, file), typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

it.skipIf(!existsSync(data))(
  "a vocab.txt is the tokenizer.json that BERT has (skipped: no ../shared/data)",
  async () => {
    const tokenizer = Tokenizer.load(data);
    expect(tokenizer.json).toEqual(
      JSON.parse(gunzipSync(readFileSync(join(data, "tokenizer.json.gz"))).toString()),
    );
    const rows = gunzipSync(readFileSync(join(data, "squad_questions_encoded_even.jsonl.gz")))
      .toString()
      .split("\n", 500)
      .map((line) => JSON.parse(line));
    const texts = rows.map(({ text }) => text);
    expect(await tokenizer.encodeBatch(texts, { addSpecialTokens: false })).toEqual(
      rows.map(({ ids }) => ids),
    );
    expect([tokenizer.padId, tokenizer.bosId, tokenizer.maskId, tokenizer.unknownId]).toEqual([
      0, 101, 103, 100,
    ]);
  },
);

const { vocab } = wordPieces().json.model;
const words = [...Object.keys(vocab), "Cat", "é"];

it("follows do_lower_case, strip_accents and the tokens that tokenizer_config.json names", async () => {
  const encode = async (config: object, text = "Cat é [MASK]") => {
    const tokenizer = Tokenizer.load(
      folder({ "vocab.txt": `${words.join("\r\n")}\r\n`, "tokenizer_config.json": config }),
    );
    return (await tokenizer.encode(text)).map((id) => tokenizer.idToToken(id));
  };
  expect(await encode({})).toEqual(["[CLS]", "cat", "[UNK]", "[MASK]", "[SEP]"]);
  const cased = { do_lower_case: false, tokenizer_class: "DistilBertTokenizer" };
  expect(await encode(cased)).toEqual(["[CLS]", "Cat", "é", "[MASK]", "[SEP]"]);
  expect(await encode({ strip_accents: false })).toEqual(["[CLS]", "cat", "é", "[MASK]", "[SEP]"]);
  const own = { cls_token: { content: "this" }, sep_token: "." };
  expect(await encode(own, "cat")).toEqual(["this", "cat", "."]);
});

it("comes back from a folder that it was saved to", async () => {
  const tokenizer = Tokenizer.load(folder({ "vocab.txt": words.join("\n") }));
  const saved = folder({});
  tokenizer.save(saved);
  const again = Tokenizer.load(saved);
  expect(again.json).toEqual(tokenizer.json);
  expect([again.padId, again.maskId]).toEqual([0, 4]);
});

it("refuses a vocabulary of another kind in one line", () => {
  const load = (files: Record<string, unknown>) => () => Tokenizer.load(folder(files));
  expect(load({ "vocab.txt": "a\nb\n" })).toThrow(/vocab\.txt has no \[UNK\], which BERT's tokenizer needs/);
  const japanese = { tokenizer_class: "BertJapaneseTokenizer" };
  expect(load({ "vocab.txt": words.join("\n"), "tokenizer_config.json": japanese })).toThrow(
    /vocab\.txt of a BertJapaneseTokenizer, which is read for BertTokenizer only/,
  );
  expect(load({})).toThrow(/nor vocab\.txt\); is it a model folder/);
});
