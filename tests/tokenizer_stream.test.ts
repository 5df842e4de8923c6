import fc from "fast-check";
import { Tokenizer as NativeTokenizer } from "tokenizers";
import { describe, expect, test, vi } from "vitest";
import { byteToChar } from "../tokenizer/byte_alphabet.ts";
import { Tokenizer, type TokenizerJson, trainBpe } from "../tokenizer/index.ts";
import { storyCorpus } from "../train/data/corpus.ts";

// Generous, because other work may share the machine; nothing here waits.
vi.setConfig({ testTimeout: 60_000 });

const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
const specials = ["<unk>", "<s>", "</s>"];
const words = ["▁", "▁Once", "▁up", "on", "a", "▁a", "▁▁", "é", "日", "😀", ".", "▁.", "�"];

function jsonOf(parts: Partial<TokenizerJson>): TokenizerJson {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specials.map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: index([...specials, ...bytes, ...words]), merges: [], unk_token: "<unk>" },
    ...parts,
  };
}

function index(tokens: string[]): Record<string, number> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

const replace = { type: "Replace", pattern: { String: "▁" }, content: " " };
const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
const llama = { type: "Sequence", decoders: [replace, { type: "ByteFallback" }, { type: "Fuse" }, strip] };
const wordPiece = {
  type: "WordPiece",
  vocab: index([
    ...specials,
    "play",
    "##ing",
    "##s",
    ".",
    "'",
    "n't",
    "do",
    "not",
    "é",
    "日",
    "##日",
    "!",
    "s",
  ]),
  unk_token: "<unk>",
  continuing_subword_prefix: "##",
  max_input_chars_per_word: 100,
};

const kinds: Record<string, TokenizerJson> = {
  "byte-level BPE": trainBpe(storyCorpus({ seed: 1, stories: 50 }), { vocab_size: 400 }),
  "sentencepiece with byte fallback": jsonOf({ decoder: llama }),
  "strip of several spaces": jsonOf({
    decoder: { type: "Sequence", decoders: [replace, { type: "Fuse" }, { ...strip, start: 3 }] },
  }),
  "strip in every token": jsonOf({ decoder: { type: "Sequence", decoders: [replace, strip] } }),
  metaspace: jsonOf({
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
  }),
  "metaspace, nothing prepended": jsonOf({
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "never", split: true },
  }),
  WordPiece: jsonOf({ model: wordPiece, decoder: { type: "WordPiece", prefix: "##", cleanup: true } }),
  "WordPiece, no clean-up": jsonOf({
    model: wordPiece,
    decoder: { type: "WordPiece", prefix: "##", cleanup: false },
  }),
  "no decoder": jsonOf({}),
  "a decoder that needs the whole text (CTC)": jsonOf({
    decoder: { type: "CTC", pad_token: "<unk>", word_delimiter_token: "▁", cleanup: true },
  }),
  "a replacement over fused text": jsonOf({
    decoder: { type: "Sequence", decoders: [{ type: "Fuse" }, replace] },
  }),
};

describe.each(Object.entries(kinds))("StreamDecoder: %s", (_, json) => {
  const tokenizer = new Tokenizer(json);
  const native = NativeTokenizer.fromString(JSON.stringify(json));

  const byteId = (byte: number) =>
    tokenizer.tokenToId(bytes[byte]!) ?? tokenizer.tokenToId(byteToChar[byte]!) ?? tokenizer.vocabSize;

  test("joined deltas equal the whole decode, for any ids, of us and of the library", async () => {
    const id = fc.nat(tokenizer.vocabSize + 2);
    // Bytes of real characters, so that valid sequences are cut at every place as well.
    const known = fc
      .string({ unit: "grapheme", maxLength: 8 })
      .map((text) => Array.from(new TextEncoder().encode(text), byteId));
    const ids = fc
      .array(
        fc.oneof(
          id.map((one) => [one]),
          known,
        ),
        { maxLength: 40 },
      )
      .map((parts) => parts.flat());
    await fc.assert(
      fc.asyncProperty(ids, fc.boolean(), async (some, skipSpecialTokens) => {
        const whole = tokenizer.decode(some, { skipSpecialTokens });
        const stream = tokenizer.streamDecoder({ skipSpecialTokens });
        const joined = some.map((one) => stream.push(one)).join("") + stream.flush();
        expect(joined).toBe(whole);
        expect(await native.decode(some, skipSpecialTokens)).toBe(whole);
      }),
      { numRuns: 200 },
    );
  });
});

test("an emoji is held back until its last byte, and ASCII never", async () => {
  const tokenizer = new Tokenizer(kinds["byte-level BPE"]!);
  const stream = tokenizer.streamDecoder();
  const ids = await tokenizer.encode("a😀b", { addSpecialTokens: false });
  expect(ids.map((id) => stream.push(id))).toEqual(["a", "", "", "", "😀", "b"]);
  expect(stream.flush()).toBe("");
});

test("a sequence that never ends becomes U+FFFD at the flush", async () => {
  const tokenizer = new Tokenizer(kinds["byte-level BPE"]!);
  const stream = tokenizer.streamDecoder();
  const ids = (await tokenizer.encode("😀", { addSpecialTokens: false })).slice(0, 2);
  expect(ids.map((id) => stream.push(id))).toEqual(["", ""]);
  expect(stream.flush()).toBe("\uFFFD");
});

test("the first space of a sentencepiece text goes, later ones stay", () => {
  const tokenizer = new Tokenizer(kinds["sentencepiece with byte fallback"]!);
  const stream = tokenizer.streamDecoder();
  const ids = ["<s>", "▁Once", "▁up", "on", "▁", "▁a"].map((token) => tokenizer.tokenToId(token)!);
  expect(ids.map((id) => stream.push(id))).toEqual(["", "Once", " up", "on", " ", " a"]);
});
