import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import { charTokenizer, Tokenizer, type TokenizerJson, trainBpe } from "../tokenizer/index.ts";
import { openShard, storyCorpus, writeShard } from "../train/data/index.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const data = join(import.meta.dirname, "../../shared/data");
const folder = mkdtempSync(join(tmpdir(), "kiln-text-"));
afterAll(() => rmSync(folder, { recursive: true }));

const special = ["<unk>", "<s>", "</s>"];
const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
const letters = [..."abcdefghijklmnopqrstuvwxyz0123456789.,!'▁日本語é😀"];
const index = (tokens: readonly string[]) => Object.fromEntries(tokens.map((token, id) => [token, id]));

function jsonOf(parts: Partial<TokenizerJson>): TokenizerJson {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: {}, merges: [] },
    ...parts,
  };
}

const merges = ["▁ t", "▁t h", "▁th e", "i n", "▁ ▁", "a n", "▁ a", "in g", "▁▁ ▁▁", "日 本"];
const bpe = {
  type: "BPE",
  vocab: index([...special, ...bytes, ...letters, ...merges.map((merge) => merge.replace(" ", ""))]),
  merges: merges.map((merge) => merge.split(" ")),
  unk_token: "<unk>",
  fuse_unk: true,
  byte_fallback: true,
};
const pieces = [
  "▁",
  "▁the",
  "the",
  "ing",
  "in",
  "▁a",
  "an",
  "▁▁",
  "日本",
  ...letters.filter((c) => c !== "▁"),
];
const unigram = {
  type: "Unigram",
  unk_id: 0,
  vocab: [...special, ...pieces].map((piece, i): [string, number] => [piece, i < 3 ? 0 : -2 - i / 10]),
};
const words = ["the", "an", "##ing", "##n", "a", "i", "##i", "t", "##h", "##e", ".", "!", "'", "日", "本"];
const bertNormalizer = { clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true };
const split = (regex: string) => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});
/** The pattern of Llama 3 and GPT-4. */
const llama3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const byteLevel = trainBpe(storyCorpus({ seed: 1, stories: 30 }), { vocab_size: 400 });

const kinds: Record<string, TokenizerJson> = {
  "byte-level BPE": byteLevel,
  "byte-level BPE with the pattern of Llama 3": {
    ...byteLevel,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        split(llama3),
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
  },
  "SentencePiece BPE as Llama 2 has it": jsonOf({
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    model: bpe,
  }),
  "SentencePiece BPE with Metaspace": jsonOf({
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false },
    model: bpe,
  }),
  "SentencePiece Unigram": jsonOf({
    normalizer: { type: "NFKC" },
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    model: unigram,
  }),
  WordPiece: jsonOf({
    normalizer: { type: "BertNormalizer", ...bertNormalizer },
    pre_tokenizer: { type: "BertPreTokenizer" },
    model: {
      type: "WordPiece",
      vocab: index([...special, ...words]),
      unk_token: "<unk>",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
    },
  }),
  characters: charTokenizer(letters, { special_tokens: ["<|endoftext|>"], bos_token: null }),
};
const plain = { addSpecialTokens: false, parseSpecialTokens: false };

test("text that may spell special tokens has them around it all the same", async () => {
  const special_tokens = ["<s>", "</s>"];
  const json = trainBpe(["a b"], { vocab_size: 260, special_tokens, bos_token: "<s>" });
  const bert = { type: "BertProcessing", cls: ["<s>", 0], sep: ["</s>", 1] };
  for (const [own, around] of [
    [json, [[0], []]],
    [{ ...json, post_processor: bert }, [[0], [1]]],
  ] as const) {
    const tokenizer = new Tokenizer(own);
    const inside = await tokenizer.encode("a<s> b", plain);
    expect(inside).not.toContain(0);
    const [ids] = await tokenizer.encodeBatch(["a<s> b"], { parseSpecialTokens: false });
    expect(ids).toEqual([...around[0], ...inside, ...around[1]]);
  }
});

test("added tokens that are not special keep their ids in text without special tokens", async () => {
  const json = structuredClone(byteLevel);
  const first = new Tokenizer(json).vocabSize;
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  json.added_tokens.push({ id: first, content: "<|turn|>", special: true, ...flags });
  json.added_tokens.push({ id: first + 1, content: "<tool>", special: false, ...flags });
  const ids = await new Tokenizer(json).encode("<tool><|turn|>", plain);
  expect(ids[0]).toBe(first + 1);
  expect(ids).not.toContain(first);
});

const ends = { cls: ["<|endoftext|>", 0], sep: ["<|endoftext|>", 0] };
test.each([
  { type: "BertProcessing", ...ends },
  { type: "RobertaProcessing", ...ends, trim_offsets: true, add_prefix_space: false },
  {
    type: "Sequence",
    processors: [
      { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      { type: "BertProcessing", ...ends },
    ],
  },
])("plain text has the special tokens of $type around it, and its pieces none", async (post_processor) => {
  const tokenizer = new Tokenizer({ ...structuredClone(byteLevel), post_processor });
  const ids = await tokenizer.encode("the thing", { parseSpecialTokens: false });
  expect(ids).toEqual(await tokenizer.encode("the thing"));
  expect([ids[0], ids.at(-1)]).toEqual([0, 0]);
  const pieces = await tokenizer.encodePieces(["the", " thing"]);
  expect(pieces.ids).toEqual(ids.slice(1, -1));
  expect(pieces.ranges.map(([start]) => start)).toContain(3); // The space belongs to its word.
});

/** The ids of a text that goes through the tokenizer in pieces, and how many cuts were not found to be exact. */
async function inPieces(tokenizer: Tokenizer, text: string, limit: number) {
  const ids: number[] = [];
  let hardCuts = 0;
  let rest = text;
  while (rest.length > limit) {
    const { end, next, isExact } = await tokenizer.cut(rest, limit, plain);
    if (!isExact) hardCuts++;
    expect(rest.slice(end, next)).toMatch(/^ ?$/);
    expect(end).toBeGreaterThan(0);
    ids.push(...(await tokenizer.encode(rest.slice(0, end), plain)));
    rest = rest.slice(next);
  }
  ids.push(...(await tokenizer.encode(rest, plain)));
  return { ids, hardCuts };
}

describe("a long text in pieces has the ids of the whole", () => {
  const word = fc.constantFrom(
    "the",
    "thing",
    "an",
    "Anna's",
    "日本語",
    "é😀",
    "1234567",
    "!",
    "...",
    "<unk>",
  );
  const space = fc.constantFrom(" ", " ", " ", "  ", "\n", "\n\n", " \n ", "\t", ", ", ".\n", "。");
  const texts = fc
    .array(fc.tuple(word, space), { minLength: 120, maxLength: 300 })
    .map((pairs) => pairs.flat().join(""));

  test.each(Object.keys(kinds))("%s", async (kind) => {
    const tokenizer = new Tokenizer(kinds[kind]);
    let cutTexts = 0;
    await fc.assert(
      fc.asyncProperty(texts, fc.integer({ min: 60, max: 400 }), async (text, limit) => {
        const { ids, hardCuts } = await inPieces(tokenizer, text, limit);
        // A stretch without a place to cut is possible in so short a limit, and is told.
        if (hardCuts > 0) return;
        expect(ids).toEqual(await tokenizer.encode(text, plain));
        if (text.length > limit) cutTexts++;
      }),
      { numRuns: 60 },
    );
    expect(cutTexts).toBeGreaterThan(40);
  });

  const gpt2 = join(data, "tokenizers/gpt2/tokenizer.json.gz");
  const bert = join(data, "tokenizers/bert/tokenizer.json.gz");
  const llama = join(data, "models/stories260K-hf/tokenizer.json");
  const shakespeare = join(data, "text/tinyshakespeare.txt.gz");
  test.skipIf(!existsSync(shakespeare))(
    "of GPT-2, BERT and stories260K on real text (skipped without ../shared/data)",
    async () => {
      const text = gunzipSync(readFileSync(shakespeare)).toString().slice(0, 200_000);
      for (const file of [gpt2, bert, llama]) {
        const content = readFileSync(file);
        const tokenizer = new Tokenizer(
          JSON.parse((file.endsWith("gz") ? gunzipSync(content) : content).toString()),
        );
        const { ids, hardCuts } = await inPieces(tokenizer, text, 5000);
        expect(hardCuts).toBe(0);
        expect(ids).toEqual(await tokenizer.encode(text, plain));
      }
    },
  );

  test("in a token file too, where a cut that may change ids is counted", async () => {
    const tokenizer = new Tokenizer(kinds["SentencePiece BPE as Llama 2 has it"]);
    const text = [...storyCorpus({ seed: 5, stories: 2000 })].join("\n\n").slice(0, 800_000);
    const write = async (parts: string[]) => {
      const file = join(folder, "long.tokens");
      const documents = parts.map((part, i) => ({ text: part, ends: i === parts.length - 1 }));
      const header = await writeShard(file, documents, tokenizer, { source_hash: "", left_out: {} });
      const shard = openShard(file);
      const ids = new Int32Array(header.tokens);
      shard.read(0, header.tokens, ids);
      shard.close();
      return { header, ids: Array.from(ids) };
    };
    const { header, ids } = await write([text.slice(0, 300_001), text.slice(300_001)]);
    expect(header).toMatchObject({ documents: 1, text_bytes: Buffer.byteLength(text), hard_cuts: 0 });
    expect(ids).toEqual([...(await tokenizer.encode(text, plain)), tokenizer.eosId]);
    const noSpace = await write(["日".repeat(300_000)]);
    expect(noSpace.header).toMatchObject({ documents: 1, text_bytes: 900_000, hard_cuts: 1 });
  });
});

describe("text that names special tokens", () => {
  const text = "a</s>b <s> c<unk>";
  test.each(Object.keys(kinds))("is plain text to %s when it is not to be parsed", async (kind) => {
    const json = kinds[kind];
    const names = json.added_tokens.map(({ content }) => content).join(" x ");
    const tokenizer = new Tokenizer(json);
    const parsed = await tokenizer.encode(names, { addSpecialTokens: false });
    for (const { id } of json.added_tokens) expect(parsed).toContain(id);
    const unknown = tokenizer.tokenToId("<unk>");
    const controls = (ids: number[]) => ids.filter((id) => id !== unknown && tokenizer.isSpecial(id));
    for (const some of [text, names, names.replaceAll(" x ", "")]) {
      expect(controls(await tokenizer.encode(some, plain))).toEqual([]);
    }
  });

  test("keeps its ids where nothing special is in it", async () => {
    for (const json of Object.values(kinds)) {
      const tokenizer = new Tokenizer(json);
      const story = "Anna's thing! the an 123 é 日本語";
      expect(await tokenizer.encode(story, plain)).toEqual(
        await tokenizer.encode(story, { addSpecialTokens: false }),
      );
    }
  });

  test("decodes to itself where bytes are tokens", async () => {
    const tokenizer = new Tokenizer(byteLevel);
    const some = "one<|endoftext|>two";
    expect(tokenizer.decode(await tokenizer.encode(some, plain))).toBe(some);
    expect(tokenizer.decode(await tokenizer.encode(some, { addSpecialTokens: false }))).toBe("onetwo");
  });
});

describe("a token for each character", () => {
  const alphabet = "hello, Wörld\n😀▁##";
  const json = charTokenizer(alphabet, { special_tokens: ["<|endoftext|>"], bos_token: "<|endoftext|>" });
  const tokenizer = new Tokenizer(json, { tokenizer_config: { eos_token: "<|endoftext|>" } });

  test("ids follow code points after the special tokens; a saved one loads the same", () => {
    const characters = [...new Set(alphabet)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
    expect(tokenizer.vocabSize).toBe(2 + characters.length);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.addsBos]).toEqual([0, 0, true]);
    expect(characters.map((character) => tokenizer.tokenToId(character))).toEqual(
      characters.map((_, i) => 2 + i),
    );
    tokenizer.save(join(folder, "char"));
    const again = Tokenizer.load(join(folder, "char"));
    expect(again.hash()).toBe(tokenizer.hash());
  });

  test("any text of its characters comes back, whole, as a stream and as bytes", async () => {
    const texts = fc.string({ unit: fc.constantFrom(...new Set(alphabet)), maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        const ids = await tokenizer.encode(text, { addSpecialTokens: false });
        expect(ids).toHaveLength([...text].length);
        expect(tokenizer.decode(ids)).toBe(text);
        const stream = tokenizer.streamDecoder();
        expect(ids.map((id) => stream.push(id)).join("") + stream.flush()).toBe(text);
        expect(Buffer.concat(ids.map((id) => tokenizer.idToBytes(id))).toString()).toBe(text);
      }),
    );
  });

  test("a character outside becomes <unk>, one for each; no text is an error", async () => {
    expect(await tokenizer.encode("zé", { addSpecialTokens: false })).toEqual([1, 1]);
    expect(() => charTokenizer("", { special_tokens: ["<|endoftext|>"], bos_token: null })).toThrow(
      /no text/,
    );
  });
});
