import { type TokenizerJson, trainBpe } from "../../tokenizer/index.ts";
import type { ComponentJson } from "../../tokenizer/tokenizer_json.ts";
import { storyCorpus } from "../../train/data/stories/grammar.ts";

/** SentencePiece byte tokens, by byte. */
export const bytes = Array.from(
  { length: 256 },
  (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`,
);
const specials = ["<unk>", "<s>", "</s>"];
const words = [
  "▁",
  "▁Once",
  "▁up",
  "on",
  "a",
  "▁a",
  "▁▁",
  "é",
  "日",
  "😀",
  ".",
  "▁.",
  "�",
  "b</w>",
  "</w>",
  "a</w>b",
];

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

export const replace = { type: "Replace", pattern: { String: "▁" }, content: " " };
export const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
const llama = { type: "Sequence", decoders: [replace, { type: "ByteFallback" }, { type: "Fuse" }, strip] };
export const sequence = (...decoders: ComponentJson[]) => jsonOf({ decoder: { type: "Sequence", decoders } });
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

/** A tokenizer for each kind of decoder that the library has, and for sequences of them. */
export const kinds: Record<string, TokenizerJson> = {
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
  CTC: jsonOf({ decoder: { type: "CTC", pad_token: "a", word_delimiter_token: "▁", cleanup: true } }),
  "CTC, no clean-up": jsonOf({
    decoder: { type: "CTC", pad_token: "a", word_delimiter_token: "▁", cleanup: false },
  }),
  BPEDecoder: jsonOf({ decoder: { type: "BPEDecoder", suffix: "</w>" } }),
  "BPEDecoder and a strip of every token": sequence({ type: "BPEDecoder", suffix: "</w>" }, strip),
  ByteFallback: jsonOf({ decoder: { type: "ByteFallback" } }),
  "ByteFallback before a step that sees tokens": sequence({ type: "ByteFallback" }, strip),
  Fuse: jsonOf({ decoder: { type: "Fuse" } }),
  "replacements of every token, one by a regular expression": sequence(replace, {
    type: "Replace",
    pattern: { Regex: "o(.)" },
    content: "0",
  }),
  "replacements over fused text": sequence(
    { type: "Fuse" },
    replace,
    { type: "Replace", pattern: { String: "aab" }, content: "[aab]" },
    { type: "Replace", pattern: { String: ". " }, content: "" },
  ),
  "a regular expression over fused text, which needs all of it": sequence(
    { type: "Fuse" },
    { type: "Replace", pattern: { Regex: "a+" }, content: "A" },
  ),
  "ByteLevel, then a word mark": sequence(
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    { type: "Replace", pattern: { String: "</w>" }, content: " " },
  ),
};
