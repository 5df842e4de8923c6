import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { Tokenizer as NativeTokenizer } from "tokenizers";
import { describe } from "../core/errors.ts";
import { atomicWriteText, firstLine } from "../core/platform/files.ts";
import { readBertFiles } from "./bert_files.ts";
import { type DecoderStage, decoderStages, tokenBytes, type WholeDecoder } from "./decoders.ts";
import { TokenizerError } from "./errors.ts";
import { readJsonFile } from "./files.ts";
import { readGpt2Files } from "./gpt2_files.ts";
import { type Cut, findCut } from "./long_text.ts";
import { renameSpecialTokens } from "./plain_text.ts";
import { unsoundPart } from "./sound_json.ts";
import { StreamDecoder, type TokenSource } from "./stream_decoder.ts";
import {
  type ComponentJson,
  componentList,
  contentOf,
  jsonOf,
  type TokenizerJson,
} from "./tokenizer_json.ts";

type Config = Record<string, unknown>;

/** How a text is encoded. */
export interface EncodeOptions {
  /** Whether the special tokens that the tokenizer's post-processor puts around a text are added; default true. */
  addSpecialTokens?: boolean;
  /**
   * Whether the name of a special token in the text becomes that token; default true, as for a prompt. Use false for
   * untrusted text, so that its author cannot end a document or begin a turn.
   */
  parseSpecialTokens?: boolean;
}

/** The tokens of a text or of a pair of texts. */
export interface TextEncoding {
  ids: number[];
  /** 0 for the first text and the special tokens around it, 1 for the second. */
  typeIds: number[];
  /** Which text a token is from: 0 or 1, null for special tokens. */
  sources: (number | null)[];
  /** Where in that text it begins and ends, as indices of a string. */
  offsets: [start: number, end: number][];
}

/** Content of the files beside `tokenizer.json` that name the tokens of begin and end; each may be absent. */
export interface TokenizerConfigs {
  tokenizer_config?: Config;
  generation_config?: Config;
  config?: Config;
  /** The text of `chat_template.jinja`. */
  chat_template?: string;
}

/**
 * A tokenizer of any kind that Hugging Face's `tokenizer.json` describes (BPE, WordPiece, Unigram), encoding with
 * the `tokenizers` library. Truncation and padding that a file asks for are switched off: no text is cut silently.
 */
export class Tokenizer implements TokenSource {
  /** The content of `tokenizer.json` as loaded. */
  readonly json: TokenizerJson;
  /** The content of `tokenizer_config.json` ({} when there is none); `save` writes it back. */
  readonly config: Config;
  /** The chat template (Jinja text) from `chat_template.jinja` or `tokenizer_config.json`, or null. */
  readonly chatTemplate: string | null;
  /** One past the largest id, added tokens included: the rows an embedding needs. */
  readonly vocabSize: number;
  /** The id that begins a text, or null. */
  readonly bosId: number | null;
  /** The id that ends a text, or null. */
  readonly eosId: number | null;
  /** All ids at which generation stops: `eosId` and those of the generation config. */
  readonly eosIds: readonly number[];
  /** The id for padding, or null. */
  readonly padId: number | null;
  /** The id that hides a token from a masked language model, or null. */
  readonly maskId: number | null;
  /** The id that stands for text which the vocabulary lacks, or null where there is no such text. */
  readonly unknownId: number | null;
  /** Whether `encode` puts `bosId` before a text. */
  readonly addsBos: boolean;

  readonly stages: readonly DecoderStage[] | null;
  readonly decodeWhole: WholeDecoder;
  readonly #native: NativeTokenizer;
  /** Tokenizers that recognise no special token by its usual name, by the mark used in the names that replace them. */
  readonly #marked = new Map<string, NativeTokenizer>();
  readonly #specialIds: ReadonlySet<number>;
  readonly #tokenIds = new Map<string, number>();
  readonly #tokens: (string | undefined)[] = [];

  constructor(json: TokenizerJson, configs: TokenizerConfigs = {}) {
    this.json = json;
    this.config = configs.tokenizer_config ?? {};
    this.#native = createNative(json);
    this.decodeWhole = libraryDecoder(this.#native);
    this.stages = decoderStages(json.decoder ?? null, (part) =>
      libraryDecoder(createNative({ ...EMPTY, decoder: part })),
    );
    this.chatTemplate = configs.chat_template ?? templateOf(this.config.chat_template);
    for (const [token, id] of Object.entries(this.#native.getVocab(true))) {
      this.#tokenIds.set(token, id);
      this.#tokens[id] = token;
    }
    this.vocabSize = this.#tokens.length;
    const added = json.added_tokens ?? [];
    this.#specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));

    const template = firstTemplateToken(json.post_processor);
    this.bosId = this.#special("bos", configs) ?? this.#idOf(template) ?? null;
    const eos = [
      this.#special("eos", configs),
      ...eosOf(configs, "generation_config"),
      ...eosOf(configs, "config"),
    ];
    this.eosIds = [...new Set([...eos, this.#guessEos(eos)].filter((id) => id !== null))];
    this.eosId = this.eosIds[0] ?? null;
    this.padId = this.#special("pad", configs) ?? null;
    this.maskId = this.#special("mask", configs) ?? this.#idOf("[MASK]") ?? this.#idOf("<mask>");
    const { unk_token, unk_id } = json.model;
    this.unknownId = typeof unk_id === "number" ? unk_id : this.#idOf(stringOrNull(unk_token));
    this.addsBos = template !== null && this.#idOf(template) === this.bosId;
  }

  /**
   * Loads a model folder (its `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`, or BERT's `vocab.txt`, with
   * `tokenizer_config.json`, `generation_config.json`, `config.json` and `chat_template.jinja` if present) or a
   * `tokenizer.json` with its neighbours.
   * @throws TokenizerError for a missing or corrupt file, naming it.
   */
  static load(path: string): Tokenizer {
    const isFolder = existsSync(path) && statSync(path).isDirectory();
    const file = isFolder ? join(path, "tokenizer.json") : path;
    const hasFile = existsSync(file);
    const gpt2 = isFolder && !hasFile ? readGpt2Files(path) : null;
    const bert = isFolder && !hasFile && !gpt2 ? readBertFiles(path) : null;
    const json = hasFile ? readJsonFile(file) : (gpt2 ?? bert?.json ?? null);
    if (json === null) {
      throw new TokenizerError(
        isFolder
          ? `${path} has no tokenizer.json (nor vocab.json with merges.txt, nor vocab.txt); is it a model folder in Hugging Face layout?`
          : `${path} does not exist; give a model folder or a tokenizer.json`,
      );
    }
    const beside = (name: string) => join(dirname(file), name);
    const template = beside("chat_template.jinja");
    try {
      return new Tokenizer(json as TokenizerJson, {
        ...(existsSync(template) ? { chat_template: readFileSync(template, "utf8") } : {}),
        ...(bert
          ? { tokenizer_config: bert.config }
          : optional("tokenizer_config", beside("tokenizer_config.json"))),
        ...optional("generation_config", beside("generation_config.json")),
        ...optional("config", beside("config.json")),
      });
    } catch (error) {
      const name = hasFile ? file : `${path}/${bert ? "vocab.txt" : "vocab.json with merges.txt"}`;
      if (error instanceof InvalidTokenizer) throw new TokenizerError(`${name}: ${error.message}`, error);
      throw error;
    }
  }

  /** The ids of `text`. */
  async encode(text: string, options: EncodeOptions = {}): Promise<number[]> {
    const [ids] = await this.encodeBatch([text], options);
    return ids!;
  }

  /** Texts and pairs of texts with special tokens around them, and where each token comes from. */
  async encodeTexts(texts: readonly (string | readonly [string, string])[]): Promise<TextEncoding[]> {
    const encode = async (given: string | readonly [string, string]): Promise<TextEncoding> => {
      const [text, pair = null] = [given].flat();
      const encoding = await this.#native.encode(text, pair, { addSpecialTokens: true });
      const places = [text, pair ?? ""].map(stringIndices);
      const sources = encoding.getSequenceIds().map((source) => source ?? null);
      const offsets = encoding.getOffsets().map(([start, end], i): [number, number] => {
        const source = sources[i];
        return source === null ? [0, 0] : [places[source](start), places[source](end)];
      });
      return { ids: encoding.getIds(), typeIds: encoding.getTypeIds(), sources, offsets };
    };
    return Promise.all(texts.map(encode));
  }

  /** The number of ids of `text`, and the ids unless they are more than `most`, which spares a useless list of millions. */
  async encodeUpTo(
    most: number,
    text: string,
    options: { addSpecialTokens?: boolean } = {},
  ): Promise<{ count: number; ids: number[] | null }> {
    const { addSpecialTokens = true } = options;
    const encoding = await library(this.#native.encode(text, null, { addSpecialTokens }));
    const count = encoding.getLength();
    return { count, ids: count > most ? null : encoding.getIds() };
  }

  /** The ids of several texts, encoded on all cores. */
  async encodeBatch(texts: string[], options: EncodeOptions = {}): Promise<number[][]> {
    const { addSpecialTokens = true, parseSpecialTokens = true } = options;
    const native = parseSpecialTokens ? this.#native : this.#markedFor(texts).native;
    const encodings = await library(native.encodeBatch(texts, { addSpecialTokens }));
    return encodings.map((encoding) => encoding.getIds());
  }

  /**
   * Encodes a text given in pieces: strings, which are always plain text even if they spell a special token, and ids of
   * special tokens. The pieces are encoded together as one text, and no other tokens are added.
   * @returns the ids, and for each of them the range of characters it covers, in code points of the text with special tokens
   * written by name. Tokens that are parts of one character all cover that character.
   * @throws TokenizerError for a number that is not the id of a special token.
   */
  async encodePieces(
    pieces: readonly (string | number)[],
  ): Promise<{ ids: number[]; ranges: [start: number, end: number][] }> {
    const { encoding, nameOf } = await this.#encodePieces(pieces);
    // Maps each position in the text with marked names to its position in the text with real names.
    const places = [0];
    for (const piece of pieces) {
      const last = places.at(-1)!;
      const isText = typeof piece === "string";
      const [shown, real] = isText ? [piece, piece] : [nameOf(piece), this.#tokens[piece]!];
      const size = [...shown].length;
      const end = last + [...real].length;
      for (let i = 1; i <= size; i++) places.push(i === size ? end : isText ? last + i : last);
    }
    const ranges = encoding
      .getOffsets()
      .map(([start, end]): [number, number] => [places[start], places[end]]);
    return { ids: encoding.getIds(), ranges };
  }

  /** The number of ids of a text in pieces, and the ids unless they are more than `most`. @throws as `encodePieces`. */
  async encodePiecesUpTo(
    most: number,
    pieces: readonly (string | number)[],
  ): Promise<{ count: number; ids: number[] | null }> {
    const { encoding } = await this.#encodePieces(pieces);
    const count = encoding.getLength();
    return { count, ids: count > most ? null : encoding.getIds() };
  }

  async #encodePieces(pieces: readonly (string | number)[]) {
    const unknown = pieces.find((piece) => typeof piece === "number" && !this.isSpecial(piece));
    if (unknown !== undefined) throw new TokenizerError(`${unknown} is no special token: give its text`);
    const { native, nameOf } = this.#markedFor(pieces.filter((piece) => typeof piece === "string"));
    const text = pieces.map((piece) => (typeof piece === "string" ? piece : nameOf(piece))).join("");
    return { encoding: await library(native.encode(text, null, { addSpecialTokens: false })), nameOf };
  }

  /**
   * Where to cut a text of more than `limit` characters, so that its two parts have the ids of the whole when they are
   * encoded with the same options, without special tokens around them. The library needs about 160 bytes of memory per
   * byte of text, so long texts have to be encoded in parts.
   */
  cut(text: string, limit: number, options: EncodeOptions = {}): Promise<Cut> {
    return findCut(text, limit, (texts) => this.encodeBatch(texts, { ...options, addSpecialTokens: false }));
  }

  /** The text of `ids`; special tokens are left out by default, unknown ids always. */
  decode(ids: Iterable<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const decoder = this.streamDecoder(options);
    let text = "";
    for (const id of ids) text += decoder.push(id);
    return text + decoder.flush();
  }

  /** A decoder for ids that arrive one by one. */
  streamDecoder(options: { skipSpecialTokens?: boolean } = {}): StreamDecoder {
    return new StreamDecoder(this, options);
  }

  tokenToId(token: string): number | null {
    return this.#tokenIds.get(token) ?? null;
  }

  idToToken(id: number): string | null {
    return this.#tokens[id] ?? null;
  }

  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }

  /**
   * The bytes of text that a token stands for, as the `bytes` of a log-probability: possibly a part of a UTF-8
   * sequence. Leading spaces count; a special token gives its own name. Unknown ids give no bytes.
   */
  idToBytes(id: number): Uint8Array {
    const token = this.#tokens[id];
    if (token === undefined) return new Uint8Array(0);
    return this.isSpecial(id)
      ? new TextEncoder().encode(token)
      : tokenBytes(this.json.decoder ?? null, token);
  }

  /** SHA-256 (hex) of everything that decides ids: the key of caches of encoded text. */
  hash(): string {
    const { normalizer, pre_tokenizer, post_processor, added_tokens, model } = this.json;
    const parts = {
      normalizer,
      pre_tokenizer,
      post_processor,
      added_tokens,
      model,
      bos: this.bosId,
      eos: this.eosId,
    };
    return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
  }

  /** Its files in a model folder, by name, as transformers reads them; a chat template is in both places that readers look for it. */
  files(): Record<string, string> {
    const name = (id: number | null) => (id === null ? undefined : this.#tokens[id]);
    const config: Config = {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: name(this.bosId),
      eos_token: name(this.eosId),
      pad_token: name(this.padId),
      clean_up_tokenization_spaces: false,
      ...this.config,
      ...(this.chatTemplate === null ? {} : { chat_template: this.chatTemplate }),
    };
    return {
      "tokenizer.json": JSON.stringify(this.json, null, 1),
      "tokenizer_config.json": `${JSON.stringify(config, null, 2)}\n`,
      ...(this.chatTemplate === null ? {} : { "chat_template.jinja": this.chatTemplate }),
    };
  }

  /** Writes `files` into a folder. */
  save(dir: string): void {
    for (const [name, text] of Object.entries(this.files())) atomicWriteText(join(dir, name), text);
  }

  /** A tokenizer whose special tokens have names that do not occur in these texts. */
  #markedFor(texts: readonly string[]): { native: NativeTokenizer; nameOf: (id: number) => string } {
    // Unicode reserves these characters for internal use. If a text contains one anyway, another is taken.
    const mark = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i)).find(
      (char) => !texts.some((text) => text.includes(char)),
    );
    if (mark === undefined) throw new TokenizerError("the text has all 32 characters from U+FDD0 to U+FDEF");
    const nameOf = (id: number) => `${mark}${id}${mark}`;
    const native =
      this.#marked.get(mark) ?? createNative(renameSpecialTokens(this.json, ({ id }) => nameOf(id)));
    this.#marked.set(mark, native);
    return { native, nameOf };
  }

  #idOf(token: string | null): number | null {
    return token === null ? null : this.tokenToId(token);
  }

  #special(role: "bos" | "eos" | "pad" | "mask", configs: TokenizerConfigs): number | null {
    const byName = this.#idOf(contentOf(configs.tokenizer_config?.[`${role}_token`]));
    if (byName !== null) return byName;
    for (const config of [configs.generation_config, configs.config]) {
      const id = config?.[`${role}_token_id`];
      if (typeof id === "number" && this.#tokens[id] !== undefined) return id;
    }
    return null;
  }

  /** A bare tokenizer.json names no end of text: the usual names count, if they are special tokens in it. */
  #guessEos(known: readonly (number | null)[]): number | null {
    if (known.some((id) => id !== null)) return null;
    const usual = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"];
    const found = usual.map((token) => this.tokenToId(token));
    return found.find((id) => id !== null && this.#specialIds.has(id)) ?? null;
  }
}

/** From the library's count of code points to indices of a JavaScript string. */
function stringIndices(text: string): (codePoint: number) => number {
  if (!/[\ud800-\udfff]/.test(text)) return (codePoint) => codePoint;
  const starts = [0];
  for (const character of text) starts.push(starts[starts.length - 1] + character.length);
  return (codePoint) => starts[codePoint];
}

/** A tokenizer.json that the library refuses; `load` adds the file's name. */
class InvalidTokenizer extends TokenizerError {}

/** A tokenizer without tokens, to hold one stage of a decoder. */
const EMPTY = jsonOf({ model: { type: "BPE", vocab: {}, merges: [] } });

function createNative(json: TokenizerJson): NativeTokenizer {
  try {
    const native = NativeTokenizer.fromString(JSON.stringify(json));
    native.disableTruncation();
    native.disablePadding();
    const fault = unsoundPart(json);
    if (fault === null) return native;
    throw new TokenizerError(fault);
  } catch (error) {
    throw new InvalidTokenizer(`not a valid tokenizer (${firstLine(error)})`, error);
  }
}

/** Encodings of the library, which finds some faults at the first text only: an unknown token that no vocabulary has, say. */
async function library<T>(encodings: Promise<T>): Promise<T> {
  try {
    return await encodings;
  } catch (error) {
    throw new TokenizerError(
      `the tokenizer cannot encode a text (${firstLine(error)}); correct its tokenizer.json`,
      error,
    );
  }
}

/** The decoder of a tokenizer of the library; without one, tokens are joined by spaces. */
function libraryDecoder(native: NativeTokenizer): WholeDecoder {
  const decoder = native.getDecoder();
  return (pieces) => (decoder === null ? pieces.join(" ") : decoder.decode(pieces));
}

/** The special token that a template puts before a single text, or null. */
function firstTemplateToken(processor: ComponentJson | null): string | null {
  const template = componentList(processor).find((part) => part.type === "TemplateProcessing");
  const first = (template?.single as { SpecialToken?: { id: string } }[] | undefined)?.[0];
  return first?.SpecialToken?.id ?? null;
}

/** `eos_token_id` of a config. @throws TokenizerError for one that is not null, an id or a list of ids. */
function eosOf(configs: TokenizerConfigs, name: "generation_config" | "config"): number[] {
  const ids: unknown[] = [configs[name]?.eos_token_id ?? []].flat();
  const wrong = ids.find((id) => !Number.isInteger(id));
  if (wrong === undefined) return ids as number[];
  throw new TokenizerError(
    `${name}.json: eos_token_id should be a token id or a list of them, got ${describe(wrong)}`,
  );
}

/** A chat template, or the one called "default" in a list of several. */
function templateOf(value: unknown): string | null {
  if (!Array.isArray(value)) return stringOrNull(value);
  return stringOrNull((value as Config[]).find((template) => template?.name === "default")?.template);
}

function stringOrNull(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function optional(key: keyof TokenizerConfigs, file: string): TokenizerConfigs {
  return existsSync(file) ? { [key]: readJsonFile(file) } : {};
}
