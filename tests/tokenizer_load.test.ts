import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Tokenizer, TokenizerError, type TokenizerJson, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/stories/grammar.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const data = join(import.meta.dirname, "../../shared/data");
const hasData = existsSync(data);
const needsData = "needs ../shared/data, which is not here";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "kiln-tokenizer-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const json = trainBpe(storyCorpus({ seed: 1, stories: 30 }), {
  vocab_size: 300,
  special_tokens: ["<|begin|>", "<|endoftext|>", "<|pad|>"],
});

describe("load and save", () => {
  test("a saved folder loads as the same tokenizer, in the form that transformers reads", async () => {
    const tokenizer = new Tokenizer(json, {
      tokenizer_config: { pad_token: "<|pad|>", model_max_length: 256 },
    });
    const path = join(folder, "saved");
    tokenizer.save(path);
    const config = JSON.parse(readFileSync(join(path, "tokenizer_config.json"), "utf8"));
    expect(config).toMatchObject({
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: "<|begin|>",
      eos_token: "<|endoftext|>",
      pad_token: "<|pad|>",
      model_max_length: 256,
    });
    const again = Tokenizer.load(path);
    expect(again.json).toEqual(json);
    expect([again.bosId, again.eosId, again.padId, again.vocabSize]).toEqual([0, 1, 2, 300]);
    expect(again.hash()).toBe(tokenizer.hash());
    expect(await again.encode("Once upon a time")).toEqual(await tokenizer.encode("Once upon a time"));
    expect(Tokenizer.load(join(path, "tokenizer.json")).bosId).toBe(0);
  });

  test("the end tokens of the generation config stop generation too", () => {
    const tokenizer = new Tokenizer(json, {
      tokenizer_config: { eos_token: { content: "<|endoftext|>" } },
      generation_config: { eos_token_id: [1, 2] },
      config: { eos_token_id: 1, pad_token_id: 2 },
    });
    expect([tokenizer.eosId, tokenizer.eosIds, tokenizer.padId]).toEqual([1, [1, 2], 2]);
    for (const wrong of ["1", [1, null], 1.5, {}]) {
      const generation_config = { eos_token_id: wrong };
      expect(() => new Tokenizer(tokenizer.json, { generation_config })).toThrow(/eos_token_id should be/);
    }
  });

  test("a chat template is read from either place and written to both", () => {
    const tokenizer = new Tokenizer(json, { chat_template: "{{ messages }}" });
    const path = join(folder, "chat");
    tokenizer.save(path);
    expect(readFileSync(join(path, "chat_template.jinja"), "utf8")).toBe("{{ messages }}");
    rmSync(join(path, "chat_template.jinja"));
    expect(Tokenizer.load(path).chatTemplate).toBe("{{ messages }}");
  });

  test("truncation and padding of the file never change ids", async () => {
    const cut = { direction: "Right", max_length: 3, strategy: "LongestFirst", stride: 0 };
    const tokenizer = new Tokenizer({ ...json, truncation: cut });
    const text = "Once upon a time there was a fox";
    expect(await tokenizer.encode(text)).toEqual(await new Tokenizer(json).encode(text));
  });

  test("tokens, bytes and special tokens by id", () => {
    const tokenizer = new Tokenizer(json);
    const space = tokenizer.tokenToId("Ġ")!;
    expect(tokenizer.idToToken(space)).toBe("Ġ");
    expect(Array.from(tokenizer.idToBytes(space))).toEqual([0x20]);
    expect(Array.from(tokenizer.idToBytes(tokenizer.tokenToId("ð")!))).toEqual([0xf0]);
    expect(new TextDecoder().decode(tokenizer.idToBytes(1))).toBe("<|endoftext|>");
    expect(tokenizer.idToBytes(99999)).toHaveLength(0);
    expect([tokenizer.idToToken(99999), tokenizer.tokenToId("no such token")]).toEqual([null, null]);
    expect([tokenizer.isSpecial(0), tokenizer.isSpecial(space)]).toEqual([true, false]);
    expect(tokenizer.decode([1, space, 99999])).toBe(" ");
    expect(tokenizer.decode([1, space], { skipSpecialTokens: false })).toBe("<|endoftext|> ");
  });
});

describe("errors are one line that names the file", () => {
  const message = (path: string): string => {
    try {
      Tokenizer.load(path);
    } catch (error) {
      expect(error).toBeInstanceOf(TokenizerError);
      return (error as Error).message;
    }
    return "no error";
  };
  const write = (name: string, text: string | Uint8Array): string => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };

  test.each([
    ["a missing path", () => join(folder, "nowhere"), /does not exist/],
    ["a folder without one", () => folder, /has no tokenizer.json/],
    ["Latin-1", () => write("l1.json", Buffer.from('{"a": "\u00e9"}', "latin1")), /not UTF-8 text/],
    ["a file cut off", () => write("cut.json", JSON.stringify(json).slice(0, 500)), /not valid JSON/],
    ["a list", () => write("list.json", "[1]"), /JSON object/],
    ["another kind of JSON", () => write("other.json", '{"hello": 1}'), /other.json: not a valid tokenizer/],
  ])("%s", (_, path, expected) => {
    const text = message(path());
    expect(text).toMatch(expected);
    expect(text).not.toContain("\n");
    expect(text).toContain(folder);
  });

  // The library takes these, and ends the process at the first text.
  const begin = { "<|begin|>": { id: "<|begin|>", ids: [0], tokens: ["<|begin|>"] } };
  test.each([
    ["a token that it does not list", {}, "A", /template names "<\|begin\|>", which its special_tokens lack/],
    ["a second text", begin, "B", /template for one text has a second one/],
    [
      "uneven ids",
      { "<|begin|>": { ...begin["<|begin|>"], ids: [] } },
      "A",
      /other ids than tokens for "<\|begin/,
    ],
  ])("a template with %s", (_, special_tokens, id, expected) => {
    const first = { SpecialToken: { id: "<|begin|>", type_id: 0 } };
    const single = [first, { Sequence: { id, type_id: 0 } }];
    const post_processor = { type: "TemplateProcessing", single, pair: [], special_tokens };
    const text = message(write("template.json", JSON.stringify({ ...json, post_processor })));
    expect(text).toMatch(expected);
    expect(text).toContain("template.json: not a valid tokenizer (");
  });

  test("a vocabulary without its unknown token is found at the first text that needs it", async () => {
    const model = { type: "BPE", vocab: { a: 0 }, merges: [], unk_token: "<unk>" };
    const tokenizer = new Tokenizer({
      ...json,
      model,
      added_tokens: [],
      pre_tokenizer: null,
      post_processor: null,
    });
    expect(await tokenizer.encode("aa")).toEqual([0, 0]);
    const failed = tokenizer.encode("ab");
    await expect(failed).rejects.toThrow(
      /^the tokenizer cannot encode a text \(.*`<unk>`.*\); correct its tokenizer\.json$/,
    );
    await expect(failed).rejects.toBeInstanceOf(TokenizerError);
  });
});

describe.skipIf(!hasData)(`published tokenizers${hasData ? "" : ` (skipped: ${needsData})`}`, () => {
  const unpack = (path: string) => gunzipSync(readFileSync(join(data, path))).toString();
  const read = (path: string) => readFileSync(join(data, path), "utf8");

  test("GPT-2 gives the published ids", async () => {
    const tokenizer = new Tokenizer(JSON.parse(unpack("tokenizers/gpt2/tokenizer.json.gz")) as TokenizerJson);
    const { text, token_ids } = JSON.parse(read("tokenizers/gpt2/gpt2_encoded_tokens.json"));
    expect(await tokenizer.encode(text, { addSpecialTokens: false })).toEqual(token_ids);
    expect(tokenizer.decode(token_ids)).toBe(text);
    expect([tokenizer.vocabSize, tokenizer.eosId]).toEqual([50257, 50256]);

    const cases = read("tokenizers/tiktoken/TestPlans_r50k_cl100k.txt").matchAll(
      /EncodingName: r50k_base\nSample: (.*)\nEncoded: (\[.*\])\n/g,
    );
    let count = 0;
    for (const [, sample, encoded] of cases) {
      expect(await tokenizer.encode(sample!, { addSpecialTokens: false })).toEqual(JSON.parse(encoded!));
      count++;
    }
    expect(count).toBeGreaterThan(50);
  });

  test("BERT (WordPiece) gives the published ids, 5285 questions", async () => {
    const tokenizer = new Tokenizer(JSON.parse(unpack("tokenizers/bert/tokenizer.json.gz")) as TokenizerJson);
    const rows = unpack("tokenizers/bert/squad_questions_encoded_even.jsonl.gz").trim().split("\n");
    const cases = rows.map((row) => JSON.parse(row) as { text: string; ids: number[] });
    const texts = cases.map((one) => one.text);
    const encoded = await tokenizer.encodeBatch(texts, { addSpecialTokens: false });
    expect(encoded).toEqual(cases.map((one) => one.ids));
    expect((await tokenizer.encode("hello"))[0]).toBe(tokenizer.tokenToId("[CLS]"));
  });

  test("stories260K loads with its neighbours and streams its expected text", async () => {
    const tokenizer = Tokenizer.load(join(data, "models/stories260K-hf"));
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.vocabSize, tokenizer.addsBos]).toEqual([
      1,
      2,
      512,
      true,
    ]);
    const text = read("models/stories260K/expected_greedy_200.txt");
    const ids = await tokenizer.encode(text);
    const stream = tokenizer.streamDecoder();
    expect(ids.map((id) => stream.push(id)).join("") + stream.flush()).toBe(text);
    expect(new TextDecoder().decode(tokenizer.idToBytes(tokenizer.tokenToId("▁Once")!))).toBe(" Once");
    expect(Array.from(tokenizer.idToBytes(tokenizer.tokenToId("<0xF0>")!))).toEqual([0xf0]);
  });
});
