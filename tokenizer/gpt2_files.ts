import { existsSync } from "node:fs";
import { join } from "node:path";
import { isObject } from "../core/platform/files.ts";
import { TokenizerError } from "./errors.ts";
import { readJsonFile, readTextFile } from "./files.ts";
import { type AddedTokenJson, contentOf, jsonOf, type TokenizerJson } from "./tokenizer_json.ts";

type Config = Record<string, unknown>;
const roles = ["bos_token", "eos_token", "unk_token", "pad_token"];

/** The token that GPT-2 uses in every role that the files leave open. */
const END_OF_TEXT = "<|endoftext|>";

/**
 * Reads a tokenizer in GPT-2's original form, `vocab.json` and `merges.txt` (with `tokenizer_config.json`,
 * `special_tokens_map.json` and `added_tokens.json` if present), and returns it as the content of a `tokenizer.json`; null
 * if the folder does not have the two files. Throws for a corrupt file and for a tokenizer that splits text differently.
 */
export function readGpt2Files(folder: string): TokenizerJson | null {
  const [vocabFile, mergesFile] = [join(folder, "vocab.json"), join(folder, "merges.txt")];
  if (!existsSync(vocabFile) || !existsSync(mergesFile)) return null;
  const optional = (name: string) => (existsSync(join(folder, name)) ? readJsonFile(join(folder, name)) : {});
  const config = optional("tokenizer_config.json");
  assertGpt2(folder, config);
  const vocab = readJsonFile(vocabFile) as Record<string, number>;
  const named = { ...optional("special_tokens_map.json"), ...config };
  const known = { ...vocab, ...(optional("added_tokens.json") as typeof vocab) };
  const added = addedTokens(named, known, [...roles.map((role) => named[role]), END_OF_TEXT]);
  const ids = { ...vocab, ...Object.fromEntries(added.map(({ content, id }) => [content, id])) };
  const byteLevel = { type: "ByteLevel", trim_offsets: false, use_regex: true };
  const unknown = contentOf(named.unk_token);
  return jsonOf({
    added_tokens: added,
    pre_tokenizer: { ...byteLevel, add_prefix_space: config.add_prefix_space === true },
    post_processor:
      config.add_bos_token === true
        ? beginningWith(contentOf(named.bos_token) ?? END_OF_TEXT, ids)
        : { ...byteLevel, add_prefix_space: true },
    decoder: { ...byteLevel, add_prefix_space: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown !== null && vocab[unknown] !== undefined ? unknown : null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: readMerges(mergesFile),
    },
  });
}

/** Other tokenizers have files of these names but other rules: their ids would be silently wrong. */
function assertGpt2(folder: string, { tokenizer_class: given }: Config): void {
  if (given === undefined || given === "GPT2Tokenizer" || given === "GPT2TokenizerFast") return;
  throw new TokenizerError(
    `${folder} has the vocab.json and merges.txt of a ${String(given)}, which are read for GPT2Tokenizer only; ` +
      "give a folder with a tokenizer.json (transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))",
  );
}

/** Pairs of tokens to merge, in order of priority. */
function readMerges(file: string): string[] {
  const lines = readTextFile(file).split(/\r?\n/);
  if (lines[0].startsWith("#version")) lines.shift();
  const merges = lines.filter((line) => line !== "");
  const bad = merges.find((line) => line.split(" ").length !== 2);
  if (bad === undefined) return merges;
  throw new TokenizerError(
    `${file} should hold two tokens a line; it has ${JSON.stringify(bad.slice(0, 80))}`,
  );
}

/** Tokens that are matched whole in a text: those that the files list, and those with a role. */
export function addedTokens(
  named: Config,
  ids: Record<string, number>,
  roles: readonly unknown[],
): AddedTokenJson[] {
  const tokens = new Map<string, AddedTokenJson>();
  const add = (content: string, id: number | undefined, settings: Config = {}) => {
    if (id === undefined || tokens.has(content)) return;
    const {
      single_word = false,
      lstrip = false,
      rstrip = false,
      normalized = false,
      special = true,
    } = settings;
    const flags = { single_word, lstrip, rstrip, normalized, special } as Omit<
      AddedTokenJson,
      "id" | "content"
    >;
    tokens.set(content, { id, content, ...flags });
  };
  const listed = (named.added_tokens_decoder ?? {}) as Record<string, Config>;
  for (const [id, token] of Object.entries(listed)) add(String(token.content), Number(id), token);
  const others = Array.isArray(named.additional_special_tokens) ? named.additional_special_tokens : [];
  for (const token of [...roles, ...others]) {
    const content = contentOf(token);
    if (content !== null) add(content, ids[content], isObject(token) ? token : {});
  }
  return [...tokens.values()].sort((a, b) => a.id - b.id);
}

function beginningWith(token: string, ids: Record<string, number>) {
  const special = { SpecialToken: { id: token, type_id: 0 } };
  const text = (id: string) => ({ Sequence: { id, type_id: 0 } });
  return {
    type: "TemplateProcessing",
    single: [special, text("A")],
    pair: [special, text("A"), special, text("B")],
    special_tokens: { [token]: { id: token, ids: [ids[token]], tokens: [token] } },
  };
}
