import { createModel, parseModelConfig } from "../../models/architectures.ts";
import type { Encoder } from "../../models/encoder.ts";
import { Tokenizer } from "../../tokenizer/index.ts";

const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const words = [
  "a",
  "good",
  "bad",
  "film",
  "is",
  "this",
  "the",
  "cat",
  "sat",
  "on",
  "mat",
  "##s",
  "##ly",
  ".",
  "?",
  "who",
];
const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
const sequence = (id: string, type_id: number) => ({ Sequence: { id, type_id } });
const added = (content: string, id: number) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

/** A small tokenizer of BERT's kind: WordPiece after BertNormalizer, [CLS] and [SEP] around texts and pairs. */
export const wordPieces = () =>
  new Tokenizer({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map(added),
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase: true,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "TemplateProcessing",
      single: [token("[CLS]"), sequence("A", 0), token("[SEP]")],
      pair: [
        token("[CLS]"),
        sequence("A", 0),
        token("[SEP]"),
        sequence("B", 1),
        { SpecialToken: { id: "[SEP]", type_id: 1 } },
      ],
      special_tokens: {
        "[CLS]": { id: "[CLS]", ids: [2], tokens: ["[CLS]"] },
        "[SEP]": { id: "[SEP]", ids: [3], tokens: ["[SEP]"] },
      },
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries([...special, ...words].map((word, i) => [word, i])),
    },
  });

/** A random BERT for these tokens, whose numbers differ from text to text, with the head of that class. */
export const randomBert = (head: string, more: object = {}) =>
  createModel(
    parseModelConfig({
      model_type: "bert",
      vocab_size: special.length + words.length,
      max_position_embeddings: 40,
      initializer_range: 0.5,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      hidden_size: 16,
      intermediate_size: 24,
      architectures: [`Bert${head}`],
      ...more,
    }),
  ).init(4) as Encoder;

export const labels = { id2label: { 0: "O", 1: "bad", 2: "good" } };
export const texts = [
  "this film is good",
  "a bad film.",
  "the cats sat on the mat",
  "good",
  "is this a film?",
];
