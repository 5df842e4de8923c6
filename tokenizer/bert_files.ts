import { existsSync } from "node:fs";
import { join } from "node:path";
import { TokenizerError } from "./errors.ts";
import { readJsonFile, readTextFile } from "./files.ts";
import { addedTokens } from "./gpt2_files.ts";
import { contentOf, jsonOf, type TokenizerJson } from "./tokenizer_json.ts";

type Config = Record<string, unknown>;

/** BERT's tokens, where the files name no others. */
const usual = {
  unk_token: "[UNK]",
  sep_token: "[SEP]",
  pad_token: "[PAD]",
  cls_token: "[CLS]",
  mask_token: "[MASK]",
};

/** Tokenizers of transformers that read a vocab.txt as BERT's does. */
const classes = /^(Bert|DistilBert|Electra|MobileBert|Retribert|Lxmert)Tokenizer(Fast)?$/;

/**
 * Reads a tokenizer in BERT's original form, `vocab.txt` (with `tokenizer_config.json`, `special_tokens_map.json` and
 * `added_tokens.json` if present), as transformers' BertTokenizer does: lower case, accents and Chinese characters are treated
 * as the config says. Returns the content of a `tokenizer.json` and of a `tokenizer_config.json`; null if the folder has no
 * such file. Throws for a corrupt file, a vocabulary without the special tokens, and a tokenizer that splits text differently.
 */
export function readBertFiles(folder: string): { json: TokenizerJson; config: Config } | null {
  const file = join(folder, "vocab.txt");
  if (!existsSync(file)) return null;
  const optional = (name: string) => (existsSync(join(folder, name)) ? readJsonFile(join(folder, name)) : {});
  const config = { ...usual, ...optional("special_tokens_map.json"), ...optional("tokenizer_config.json") };
  const { tokenizer_class: given = "BertTokenizer" } = config as Config;
  if (!classes.test(String(given)))
    throw new TokenizerError(
      `${folder} has the vocab.txt of a ${String(given)}, which is read for BertTokenizer only; ` +
        "give a folder with a tokenizer.json (transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))",
    );
  const lines = readTextFile(file).split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  const vocab = Object.fromEntries(lines.map((token, id) => [token, id]));
  const roles = Object.keys(usual).map((role) => config[role as keyof typeof usual]);
  const [unknown, separator, , first] = roles.map((token) => contentOf(token) ?? "");
  const missing = [unknown, separator, first].find((token) => vocab[token] === undefined);
  if (missing !== undefined)
    throw new TokenizerError(`${file} has no ${missing}, which BERT's tokenizer needs; is it another's?`);
  const {
    do_lower_case: lowercase = true,
    strip_accents = null,
    tokenize_chinese_chars = true,
  } = config as Config;
  const special = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
  const text = (id: string, type_id: number) => ({ Sequence: { id, type_id } });
  const single = [special(first, 0), text("A", 0), special(separator, 0)];
  const named = (token: string) => [token, { id: token, ids: [vocab[token]], tokens: [token] }];
  const json = jsonOf({
    added_tokens: addedTokens(
      config,
      { ...vocab, ...(optional("added_tokens.json") as typeof vocab) },
      roles,
    ),
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: tokenize_chinese_chars,
      strip_accents,
      lowercase,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "TemplateProcessing",
      single,
      pair: [...single, text("B", 1), special(separator, 1)],
      special_tokens: Object.fromEntries([first, separator].map(named)),
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: unknown,
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab,
    },
  });
  return { json, config };
}
