import { TokenizerError } from "./errors.ts";
import { SPACE, splits, tokenTypes } from "./from_gguf.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { type ComponentJson, componentList, type TokenizerJson } from "./tokenizer_json.ts";

/** A metadata value of a GGUF file, or a list of such values. */
interface GgufKey {
  type: "string" | "u32" | "i32" | "f32" | "bool";
  value: string | number | boolean | (string | number)[];
}

/**
 * The metadata that makes llama.cpp encode as `tokenizer` does: byte-level BPE, or SentencePiece BPE with byte tokens.
 * `vocabSize` rows of the embedding have a token each; rows beyond the tokenizer's get unused ones.
 * Errors: a tokenizer that llama.cpp has no counterpart of, or one that has more tokens than the model.
 */
export function tokenizerToGguf(tokenizer: Tokenizer, vocabSize: number): Map<string, GgufKey> {
  const { json } = tokenizer;
  const refuse = (why: string) =>
    new TokenizerError(
      `a GGUF file cannot hold this tokenizer: ${why}; export the model with --to hf instead`,
    );
  if (tokenizer.vocabSize > vocabSize) {
    throw refuse(`it has ${tokenizer.vocabSize} tokens, but the model has rows for ${vocabSize}`);
  }
  if (tokenizer.eosId === null)
    throw refuse("it names no token that ends a text, and llama.cpp would take another one for it");
  const keys = new Map<string, GgufKey>();
  const set = (name: string, type: GgufKey["type"], value: GgufKey["value"]) =>
    keys.set(`tokenizer.ggml.${name}`, { type, value });
  const tokens = Array.from({ length: vocabSize }, (_, id) => tokenizer.idToToken(id) ?? `[PAD${id}]`);
  const types = tokenTypesOf(tokenizer, tokens);
  const { kind, ...own } =
    json.model.byte_fallback === true ? sentencePiece(json, tokens, refuse) : byteLevel(json, refuse);
  set("model", "string", kind);
  for (const [name, key] of Object.entries(own)) keys.set(`tokenizer.ggml.${name}`, key);
  set("tokens", "string", tokens);
  set("token_type", "i32", types);
  const [eos, endOfTurn] = tokenizer.eosIds;
  const unknown = tokenizer.unknownId;
  const roles = { bos: tokenizer.bosId, eos, eot: endOfTurn, padding: tokenizer.padId, unknown };
  for (const [role, id] of Object.entries(roles))
    if (typeof id === "number") set(`${role}_token_id`, "u32", id);
  const { begins, ends } = templateOf(tokenizer, refuse);
  set("add_bos_token", "bool", begins);
  set("add_eos_token", "bool", ends);
  if (tokenizer.chatTemplate !== null) {
    keys.set("tokenizer.chat_template", { type: "string", value: withoutMasks(tokenizer.chatTemplate) });
  }
  return keys;
}

/** Templates of training mark what is supervised with tags that only transformers knows. */
const withoutMasks = (template: string) => template.replaceAll(/\{%-?\s*(end)?generation\s*-?%\}/g, "");

function tokenTypesOf(tokenizer: Tokenizer, tokens: readonly string[]): number[] {
  const added = new Map(tokenizer.json.added_tokens.map(({ id, special }) => [id, special]));
  return tokens.map((token, id) => {
    if (tokenizer.idToToken(id) === null) return tokenTypes.unused;
    if (id === tokenizer.unknownId) return tokenTypes.unknown;
    if (added.has(id)) return added.get(id) ? tokenTypes.control : tokenTypes.userDefined;
    return tokenizer.json.model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(token)
      ? tokenTypes.byte
      : tokenTypes.normal;
  });
}

type Refuse = (why: string) => TokenizerError;

function mergesOf(json: TokenizerJson): string[][] {
  return (json.model.merges as (string | string[])[]).map((merge) =>
    typeof merge === "string" ? merge.split(" ") : merge,
  );
}

function byteLevel(json: TokenizerJson, refuse: Refuse) {
  const parts = componentList(json.pre_tokenizer);
  const bytes = parts.at(-1);
  if (json.model.type !== "BPE" || json.decoder?.type !== "ByteLevel" || bytes?.type !== "ByteLevel") {
    throw refuse("llama.cpp knows byte-level BPE, and SentencePiece BPE with byte tokens");
  }
  if (bytes.add_prefix_space === true)
    throw refuse("it puts a space before a text, which llama.cpp does not");
  const normalizers = componentList(json.normalizer).map(({ type }) => type);
  // llama.cpp normalizes nothing: text in composed form, as nearly all text is, has the same tokens.
  if (normalizers.some((type) => type !== "NFC"))
    throw refuse(`it changes text first (${normalizers.join(", ")})`);
  const before = parts.slice(0, -1);
  const split = splits.find(({ digits, pattern }) => {
    if (
      (pattern === undefined) !== (bytes.use_regex !== false) ||
      before.length !== (pattern || digits ? 1 : 0)
    )
      return false;
    return digits ? isDigits(before[0]) : pattern === undefined || isSplit(before[0], pattern);
  });
  if (split === undefined) throw refuse("it splits text in a way that llama.cpp has no name for");
  return {
    kind: "gpt2",
    pre: { type: "string", value: split.names[0] },
    merges: { type: "string", value: mergesOf(json).map((pair) => pair.join(" ")) },
  } as const;
}

const isDigits = (part: ComponentJson) => part.type === "Digits" && part.individual_digits === true;
const isSplit = (part: ComponentJson, pattern: string) =>
  part.type === "Split" &&
  part.behavior === "Isolated" &&
  (part.pattern as { Regex?: string }).Regex === pattern;

function sentencePiece(json: TokenizerJson, tokens: readonly string[], refuse: Refuse) {
  const normalizers = componentList(json.normalizer);
  const pretokenizers = componentList(json.pre_tokenizer);
  const known = [...normalizers, ...pretokenizers].every(
    (part) =>
      (part.type === "Prepend" && part.prepend === SPACE) ||
      (part.type === "Replace" &&
        (part.pattern as { String?: string }).String === " " &&
        part.content === SPACE) ||
      (part.type === "Metaspace" && part.replacement === SPACE && part.split === false),
  );
  if (json.model.type !== "BPE" || !known || normalizers.length + pretokenizers.length === 0) {
    throw refuse("it has byte tokens, but splits or changes text in another way than SentencePiece BPE");
  }
  const prefixed =
    normalizers.some(({ type }) => type === "Prepend") ||
    pretokenizers.some(({ type, prepend_scheme: scheme }) => type === "Metaspace" && scheme !== "never");
  const rank = new Map<string, number>();
  for (const [index, pair] of mergesOf(json).entries()) {
    const token = pair.join("");
    if (!rank.has(token)) rank.set(token, index);
  }
  // Tokens that no merge makes are never made of others: as single characters are, or last of all.
  const scores = tokens.map((token) => -(rank.get(token) ?? rank.size));
  return {
    kind: "llama",
    pre: { type: "string", value: "default" },
    add_space_prefix: { type: "bool", value: prefixed },
    scores: { type: "f32", value: scores },
  } as const;
}

/** Whether the post-processor puts the token of the begin before a text, and that of the end after it. */
function templateOf(tokenizer: Tokenizer, refuse: Refuse): { begins: boolean; ends: boolean } {
  const processors = componentList(tokenizer.json.post_processor);
  const template = processors.find(({ type }) => type === "TemplateProcessing");
  const single = ((template?.single ?? []) as { SpecialToken?: { id: string } }[]).map(
    (part) => part.SpecialToken?.id ?? null,
  );
  const text = single.indexOf(null);
  const idOf = (token: string | null) => (token === null ? null : tokenizer.tokenToId(token));
  const [before, after] = [single.slice(0, Math.max(0, text)).map(idOf), single.slice(text + 1).map(idOf)];
  const unknown = processors.find(({ type }) => type !== "TemplateProcessing" && type !== "ByteLevel");
  const fits = before.every((id) => id === tokenizer.bosId) && after.every((id) => id === tokenizer.eosId);
  if (unknown || !fits || before.length > 1 || after.length > 1) {
    throw refuse("it puts other tokens around a text than that of its begin and that of its end");
  }
  return { begins: before.length === 1, ends: after.length === 1 };
}
