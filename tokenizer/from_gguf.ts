import { TokenizerError } from "./errors.ts";
import { Tokenizer } from "./tokenizer.ts";
import { addedToken, type ComponentJson, jsonOf, plainBpe, type TokenizerJson } from "./tokenizer_json.ts";

/** Metadata of a GGUF file: a value of each key. */
export type GgufKeys = ReadonlyMap<string, { value: unknown }>;

/** Codes of `tokenizer.ggml.token_type`. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/**
 * How a byte-level BPE splits text before it merges, by the names that llama.cpp gives it (`tokenizer.ggml.pre`; the first
 * is the one that is written). `digits`: each digit for itself; `pattern`: instead of GPT-2's own.
 */
export const splits: { names: string[]; digits?: true; pattern?: string }[] = [
  { names: ["gpt-2", "phi-2", "mpt", "olmo", "jais"] },
  { names: ["smollm", "starcoder", "refact", "command-r", "codeshell"], digits: true },
  {
    names: ["llama-bpe", "llama3", "llama-v3"],
    pattern: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  },
  {
    names: ["qwen2", "deepseek-r1-qwen"],
    pattern: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  },
];

/** SentencePiece's space. */
export const SPACE = "\u2581";

/**
 * The tokenizer in the metadata of a GGUF file: byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) or WordPiece (`bert`),
 * with its chat template. `file` is what messages call it. Errors: none in it, one of another kind, or a damaged one.
 */
export function tokenizerFromGguf(keys: GgufKeys, file: string): Tokenizer {
  try {
    return build(new Reader(keys));
  } catch (error) {
    if (error instanceof TokenizerError) throw new TokenizerError(`${file}: ${error.message}`, error);
    throw error;
  }
}

/** The keys of a tokenizer, checked for their types. */
class Reader {
  readonly #keys: GgufKeys;
  readonly tokens: string[];
  readonly types: number[];

  constructor(keys: GgufKeys) {
    this.#keys = keys;
    this.tokens = this.list("tokens", "string");
    this.types = this.has("token_type") ? this.list("token_type", "number") : this.tokens.map(() => 1);
    if (this.types.length !== this.tokens.length) {
      throw new TokenizerError(
        `tokenizer.ggml.token_type has ${this.types.length} entries for ${this.tokens.length} tokens; fetch the file again`,
      );
    }
    const twice = this.tokens.length - new Set(this.tokens).size;
    if (twice > 0)
      throw new TokenizerError(`tokenizer.ggml.tokens has ${twice} tokens twice; fetch the file again`);
  }

  has(name: string): boolean {
    return this.#keys.has(`tokenizer.ggml.${name}`);
  }

  value(name: string, type: "string" | "number" | "boolean"): unknown {
    const key = name === "chat_template" ? "tokenizer.chat_template" : `tokenizer.ggml.${name}`;
    const found = this.#keys.get(key)?.value;
    if (found === undefined || typeof found === type) return found;
    throw new TokenizerError(`${key} is not a ${type}; fetch the file again`);
  }

  text = (name: string) => this.value(name, "string") as string | undefined;
  flag = (name: string) => this.value(name, "boolean") as boolean | undefined;

  list<T extends "string" | "number">(name: string, type: T): (T extends "string" ? string : number)[] {
    const found = this.#keys.get(`tokenizer.ggml.${name}`)?.value;
    if (Array.isArray(found) && found.every((item) => typeof item === type)) return found;
    throw new TokenizerError(
      `tokenizer.ggml.${name} is ${found === undefined ? "missing" : `not a list of ${type}s`}; use a file that holds a tokenizer`,
    );
  }

  /** The token that has a role, or null. */
  role(name: string): string | null {
    const id = this.value(`${name}_token_id`, "number") as number | undefined;
    if (id === undefined) return null;
    if (this.tokens[id] !== undefined) return this.tokens[id];
    throw new TokenizerError(
      `tokenizer.ggml.${name}_token_id is ${id}, but there are ${this.tokens.length} tokens; fetch the file again`,
    );
  }

  idsOf(type: number): number[] {
    return this.types.flatMap((given, id) => (given === type ? [id] : []));
  }
}

function build(keys: Reader): Tokenizer {
  const kind = keys.text("model");
  const kinds = { gpt2: byteLevel, llama: sentencePiece, bert: wordPiece };
  if (kind === undefined || !Object.hasOwn(kinds, kind)) {
    throw new TokenizerError(
      `tokenizer.ggml.model is ${JSON.stringify(kind)}; kiln reads ${Object.keys(kinds).join(", ")}: use the model's folder in Hugging Face layout`,
    );
  }
  const json = kinds[kind as keyof typeof kinds](keys);
  const roles = {
    bos_token: keys.role("bos"),
    eos_token: keys.role("eos"),
    unk_token: keys.role("unknown"),
    pad_token: keys.role("padding"),
    // The format's own spelling, then the right one.
    sep_token: keys.role("seperator") ?? keys.role("separator"),
    cls_token: keys.role("cls"),
    mask_token: keys.role("mask"),
  };
  const named = Object.fromEntries(Object.entries(roles).filter(([, token]) => token !== null));
  const endOfTurn = keys.has("eot_token_id") ? [keys.value("eot_token_id", "number") as number] : [];
  const template = keys.text("chat_template");
  return new Tokenizer(json, {
    tokenizer_config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      clean_up_tokenization_spaces: false,
      ...named,
    },
    generation_config: { eos_token_id: endOfTurn },
    ...(template === undefined ? {} : { chat_template: template }),
  });
}

/** What all kinds have in common. `around`: the tokens before and after a text. */
function tokenizerJson(
  keys: Reader,
  parts: Pick<TokenizerJson, "model"> & Partial<TokenizerJson>,
  around: { first: string | null; last: string | null },
): TokenizerJson {
  const { unknown, control, userDefined } = tokenTypes;
  const added = [unknown, control, userDefined]
    .flatMap((type) => keys.idsOf(type))
    .sort((a, b) => a - b)
    .map((id) => addedToken(id, keys.tokens[id], keys.types[id] !== userDefined));
  return jsonOf({ added_tokens: added, post_processor: template(keys, around), ...parts });
}

function template(
  keys: Reader,
  { first, last }: { first: string | null; last: string | null },
): ComponentJson | null {
  const special = (token: string | null, type_id = 0) =>
    token === null ? [] : [{ SpecialToken: { id: token, type_id } }];
  const text = (id: string, type_id = 0) => ({ Sequence: { id, type_id } });
  const used = [first, last].filter((token) => token !== null);
  if (used.length === 0) return null;
  const single = [...special(first), text("A"), ...special(last)];
  return {
    type: "TemplateProcessing",
    single,
    pair: [...single, ...(last === null ? special(first, 1) : []), text("B", 1), ...special(last, 1)],
    special_tokens: Object.fromEntries(
      used.map((token) => [token, { id: token, ids: [keys.tokens.indexOf(token)], tokens: [token] }]),
    ),
  };
}

/** Tokens as the vocabulary of a tokenizer.json; unused ones are left out. */
function vocabulary(keys: Reader, spelled = (token: string, _type: number) => token): Record<string, number> {
  const used = keys.tokens.flatMap((token, id) =>
    keys.types[id] === tokenTypes.unused ? [] : [[spelled(token, keys.types[id]), id] as const],
  );
  return Object.fromEntries(used);
}

/** The tokens that a text begins and ends with, where `beginsByDefault` says what a file without a word about it means. */
function ends(keys: Reader, beginsByDefault: boolean) {
  return {
    first: (keys.flag("add_bos_token") ?? beginsByDefault) ? keys.role("bos") : null,
    last: keys.flag("add_eos_token") ? keys.role("eos") : null,
  };
}

function byteLevel(keys: Reader): TokenizerJson {
  const pre = keys.text("pre");
  const split = splits.find(({ names }) => pre !== undefined && names.includes(pre));
  if (split === undefined) {
    const known = splits.flatMap(({ names }) => names).join(", ");
    throw new TokenizerError(
      `tokenizer.ggml.pre is ${JSON.stringify(pre)}, a way to split text that kiln does not know (it knows ${known}); use the model's folder in Hugging Face layout`,
    );
  }
  const isLlama3 = split.names[0] === "llama-bpe";
  const bytes = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: split.pattern === undefined,
  };
  const before =
    split.pattern === undefined
      ? { type: "Digits", individual_digits: true }
      : { type: "Split", pattern: { Regex: split.pattern }, behavior: "Isolated", invert: false };
  return tokenizerJson(
    keys,
    {
      pre_tokenizer:
        split.pattern || split.digits ? { type: "Sequence", pretokenizers: [before, bytes] } : bytes,
      decoder: { ...bytes, use_regex: true },
      model: {
        ...plainBpe,
        ignore_merges: isLlama3,
        vocab: vocabulary(keys),
        merges: keys.list("merges", "string").map((merge) => {
          const space = merge.indexOf(" ", 1);
          return [merge.slice(0, space), merge.slice(space + 1)];
        }),
      },
    },
    ends(keys, isLlama3),
  );
}

function sentencePiece(keys: Reader): TokenizerJson {
  const scores = keys.list("scores", "number");
  if (scores.length !== keys.tokens.length) {
    throw new TokenizerError(
      `tokenizer.ggml.scores has ${scores.length} entries for ${keys.tokens.length} tokens; fetch the file again`,
    );
  }
  const prefixed = keys.flag("add_space_prefix") ?? true;
  const toSpace = { type: "Replace", pattern: { String: " " }, content: SPACE };
  return tokenizerJson(
    keys,
    {
      normalizer: {
        type: "Sequence",
        normalizers: [...(prefixed ? [{ type: "Prepend", prepend: SPACE }] : []), toSpace],
      },
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: SPACE }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          ...(prefixed ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
        ],
      },
      model: {
        ...plainBpe,
        unk_token: keys.role("unknown") ?? keys.tokens[keys.idsOf(tokenTypes.unknown)[0]] ?? null,
        fuse_unk: true,
        byte_fallback: keys.idsOf(tokenTypes.byte).length > 0,
        vocab: vocabulary(keys),
        merges: mergesByScore(keys, scores),
      },
    },
    ends(keys, true),
  );
}

/**
 * SentencePiece merges the neighbours whose joint token has the highest score: as a list of merges, every way to cut a
 * token into two others, best token first (`generate_merges` of transformers' convert_slow_tokenizer).
 */
function mergesByScore(keys: Reader, scores: readonly number[]): [string, string][] {
  const ids = new Map(
    keys.tokens.flatMap((token, id) => (keys.types[id] === tokenTypes.normal ? [[token, id]] : [])),
  );
  // SentencePiece makes pieces of 16 characters at most by default; the work grows with the square of the length.
  const long = [...ids].find(([token]) => token.length > 1000);
  if (long)
    throw new TokenizerError(`token ${long[1]} has ${long[0].length} characters; fetch the file again`);
  const merges: { left: string; right: string; order: number[] }[] = [];
  for (const [token, id] of ids) {
    let left = "";
    for (const character of token) {
      const [a, b] = [ids.get(left), ids.get(token.slice(left.length))];
      if (a !== undefined && b !== undefined)
        merges.push({ left, right: token.slice(left.length), order: [-scores[id], id, a, b] });
      left += character;
    }
  }
  const before = (a: number[], b: number[]) =>
    a.map((x, i) => x - b[i]).find((difference) => difference !== 0) ?? 0;
  return merges.sort((a, b) => before(a.order, b.order)).map(({ left, right }) => [left, right]);
}

function wordPiece(keys: Reader): TokenizerJson {
  // The file marks how words begin, a tokenizer.json how they go on.
  const spelled = (token: string, type: number) => {
    if (token.startsWith(SPACE)) return token.slice(1);
    return type !== tokenTypes.normal || /^\[.*\]$/.test(token) ? token : `##${token}`;
  };
  return tokenizerJson(
    keys,
    {
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: true,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: keys.role("unknown") ?? "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: vocabulary(keys, spelled),
      },
    },
    { first: keys.role("cls") ?? keys.role("bos"), last: keys.role("seperator") ?? keys.role("separator") },
  );
}
