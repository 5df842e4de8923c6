import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import { KilnError } from "../../core/errors.ts";
import { writeError } from "../../core/platform/files.ts";
import { configError } from "../../models/formats/validation.ts";
import { charTokenizer, Tokenizer, type TokenizerJson, trainBpe, UNKNOWN } from "../../tokenizer/index.ts";
import type { TextSettings } from "../settings/text.ts";
import {
  cachedShard,
  countTokens,
  type DocumentSource,
  fileSource,
  type ShardHeader,
  type Span,
  splitDocuments,
  spreadSample,
  storySource,
  type TokenShard,
} from "./index.ts";

/** Documents, or parts of them, in a token file. */
export interface Dataset {
  shard: TokenShard;
  documents: readonly Span[];
}

/** What a run learns from and is measured on; `validation` is empty if nothing is held out. */
export interface TrainingData {
  train: Dataset;
  validation: Dataset;
  /** Changes when the texts do; settings decide the rest. */
  hash: string;
  close(): void;
}

/** The settings that this file reads. */
type TextConfig = TextSettings & { out_dir: string; resume: boolean | string };

/**
 * Reads the corpus (and validation files, if given), trains or loads the tokenizer, encodes everything into cached token
 * files and says how much there is. `longestText` goes into the tokenizer's files, in tokens. `signal` ends it with a
 * KilnError of exit code 130.
 */
export async function openTextData(
  config: TextConfig,
  longestText: number,
  { say, signal }: { say: (line: string) => void; signal?: AbortSignal },
): Promise<TrainingData & { tokenizer: Tokenizer }> {
  const { data } = config;
  const { field, separator, parse_special_tokens: parseSpecialTokens } = data;
  const files = (paths: readonly string[]) => fileSource(paths, { field, separator });
  const source = stoppable(data.path ? files(data.path) : storySource(data.corpus), signal);
  const other = data.validation_path ? stoppable(files(data.validation_path), signal) : null;
  const tokenizer = await tokenizerFor(config, longestText, source, say);
  const cache = join(config.out_dir, "tokens");
  const encode = async (from: DocumentSource) =>
    (await cachedShard(from, tokenizer, cache, { parseSpecialTokens })).shard;
  const shard = await encode(source);
  const held = other && (await encode(other));
  const { validation_fraction: fraction, seed } = data;
  const parts = splitDocuments(shard.documents, { fraction: held ? 0 : fraction, seed });
  sayLosses(shard.header, source.name, say);
  if (held) sayLosses(held.header, other.name, say);
  const train = { shard, documents: parts.train };
  const validation = held
    ? { shard: held, documents: held.documents }
    : { shard, documents: parts.validation };
  say(`training data: ${size(train)}, from ${source.name}`);
  const from = other ? `, from ${other.name}` : fraction ? `, held out of it (data.seed ${seed})` : "";
  say(`validation data: ${size(validation)}${from}`);
  return {
    train,
    validation,
    hash: held ? `${shard.header.source_hash} ${held.header.source_hash}` : shard.header.source_hash,
    close: () => {
      shard.close();
      held?.close();
    },
    tokenizer,
  };
}

/** Throws a KilnError where the run folder is inside of a folder of the corpus: what a run writes would become text to learn. */
export function assertOutside(
  outDir: string,
  path: readonly string[] = [],
  validationPath: readonly string[] = [],
): void {
  const below = (folder: string) => {
    const way = relative(folder, real(outDir));
    return !isAbsolute(way) && way.split(sep)[0] !== "..";
  };
  const around = [...path, ...validationPath].find((folder) => existsSync(folder) && below(real(folder)));
  if (around === undefined) return;
  throw configError(
    `the run's folder ${outDir} is inside of the data folder ${around}, where its own files would be read as text: give another --out`,
  );
}

/** The absolute path without links, also of what is not there yet. */
function real(path: string): string {
  const full = resolve(path);
  if (existsSync(full) || dirname(full) === full) return realpathSync(full);
  return join(real(dirname(full)), basename(full));
}

/** A source that throws once the signal is given: reading a large corpus takes hours. */
function stoppable(source: DocumentSource, signal?: AbortSignal): DocumentSource {
  const documents: DocumentSource["documents"] = async function* (leaveOut) {
    for await (const part of source.documents(leaveOut)) {
      if (signal?.aborted) {
        const message = "stopped before the first step, while the data was read; start it again";
        throw new KilnError(message, { code: "interrupted", exitCode: 130 });
      }
      yield part;
    }
  };
  return { ...source, documents };
}

function size({ documents }: Dataset): string {
  const count = (value: number) => value.toLocaleString("en");
  const s = documents.length === 1 ? "" : "s";
  return `${count(countTokens(documents))} tokens in ${count(documents.length)} document${s}`;
}

/** Says which parts of the texts are missing from a token file, or were changed. */
function sayLosses(header: ShardHeader, name: string, say: (line: string) => void): void {
  const { left_out, unknown_tokens, hard_cuts } = header;
  const counts = Object.entries(left_out).map(([what, count]) => `${what} ${count}`);
  if (counts.length > 0) say(`left out of ${name}: ${counts.join(", ")}`);
  if (unknown_tokens > 0) {
    say(`${name}: tokens for text that the tokenizer does not know: ${unknown_tokens}`);
  }
  if (hard_cuts > 0) {
    say(`${name}: words too long to be encoded whole were cut ${hard_cuts} times; their tokens may differ`);
  }
}

/** The given tokenizer, the one that this run made before, or a new one for the corpus. */
async function tokenizerFor(
  config: TextConfig,
  longestText: number,
  source: DocumentSource,
  say: (line: string) => void,
): Promise<Tokenizer> {
  const { path } = config.tokenizer;
  if (path) {
    const tokenizer = await Tokenizer.load(path);
    // Said because a tokenizer.kind or vocab_size has no effect then.
    say(`tokenizer: ${tokenizer.vocabSize.toLocaleString("en")} tokens, from ${path}`);
    return tokenizer;
  }
  const folder = join(config.out_dir, "tokenizer");
  if (config.resume && existsSync(folder)) return Tokenizer.load(folder);
  const isChar = config.tokenizer.kind === "char";
  const json = isChar ? await makeChar(source) : await trainTokenizer(source, config.tokenizer.vocab_size);
  const tokenizer = new Tokenizer(json, {
    tokenizer_config: {
      bos_token: endOfText,
      eos_token: endOfText,
      ...(isChar && { unk_token: UNKNOWN }),
      model_max_length: longestText,
    },
  });
  try {
    tokenizer.save(folder);
  } catch (error) {
    throw writeError(folder, error);
  }
  say(
    `tokenizer: ${tokenizer.vocabSize} tokens, ${isChar ? "one for each character" : "byte-level BPE"} of the corpus`,
  );
  return tokenizer;
}

const endOfText = "<|endoftext|>";

/** How many characters the merges are learned from: more would change little. */
const sampleCharacters = 8e6;

async function trainTokenizer(source: DocumentSource, vocab_size: number): Promise<TokenizerJson> {
  const texts = await spreadSample(source.documents(), sampleCharacters);
  return trainBpe(texts, { vocab_size, special_tokens: [endOfText] });
}

async function makeChar(source: DocumentSource): Promise<TokenizerJson> {
  const alphabet = new Set<string>();
  for await (const { text } of source.documents()) for (const character of text) alphabet.add(character);
  return charTokenizer(alphabet, { special_tokens: [endOfText], bos_token: endOfText });
}
