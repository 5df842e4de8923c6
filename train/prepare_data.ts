import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer, trainBpe } from "../tokenizer/index.ts";
import type { PretrainConfig } from "./config.ts";
import {
  countTokens,
  type DocumentSource,
  fileSource,
  prepareShard,
  type Span,
  splitDocuments,
  storySource,
  type TokenShard,
} from "./data/index.ts";

/** Documents, or parts of them, in a token file. */
export interface Dataset {
  shard: TokenShard;
  documents: readonly Span[];
}

/** What a run learns from and is measured on; `validation` is empty where nothing is held out. */
export interface TrainingData {
  train: Dataset;
  validation: Dataset;
  /** Changes with anything that decides which tokens are on which side. */
  hash: string;
  close(): void;
}

/**
 * Reads the corpus (and validation files, where given), trains or loads the tokenizer, encodes everything into cached
 * token files and says how much there is. `longestText` goes into the tokenizer's files, in tokens.
 */
export async function prepareData(
  config: PretrainConfig,
  longestText: number,
  say: (line: string) => void,
): Promise<TrainingData & { tokenizer: Tokenizer }> {
  const { data } = config;
  const files = (paths: readonly string[]) => fileSource(paths, { field: data.field });
  const source = data.path ? files(data.path) : storySource(data.corpus);
  const other = data.validation_path ? files(data.validation_path) : null;
  const tokenizer = await prepareTokenizer(config, longestText, source, say);
  const cache = join(config.out_dir, "tokens");
  const { shard } = await prepareShard(source, tokenizer, cache);
  const held = other && (await prepareShard(other, tokenizer, cache)).shard;
  const { validation_fraction: fraction, seed } = data;
  const parts = splitDocuments(shard.documents, { fraction: held ? 0 : fraction, seed });
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
    hash:
      [shard, ...(held ? [held] : [])].map(({ header }) => header.source_hash).join(" ") +
      (held ? "" : ` tokens ${fraction} ${seed}`),
    close: () => {
      shard.close();
      held?.close();
    },
    tokenizer,
  };
}

function size({ documents }: Dataset): string {
  const count = (value: number) => value.toLocaleString("en");
  const s = documents.length === 1 ? "" : "s";
  return `${count(countTokens(documents))} tokens in ${count(documents.length)} document${s}`;
}

/** The given tokenizer, the one that this run trained before, or a new byte-level BPE of the corpus. */
async function prepareTokenizer(
  config: PretrainConfig,
  longestText: number,
  source: DocumentSource,
  say: (line: string) => void,
): Promise<Tokenizer> {
  if (config.tokenizer.path) return Tokenizer.load(config.tokenizer.path);
  const folder = join(config.out_dir, "tokenizer");
  if (config.resume && existsSync(folder)) return Tokenizer.load(folder);
  const texts: string[] = [];
  let characters = 0;
  for await (const text of source.documents()) {
    texts.push(text);
    characters += text.length;
    if (characters > tokenizerSample) break;
  }
  const endOfText = "<|endoftext|>";
  const json = trainBpe(texts, { vocab_size: config.tokenizer.vocab_size, special_tokens: [endOfText] });
  const tokenizer = new Tokenizer(json, {
    tokenizer_config: { bos_token: endOfText, eos_token: endOfText, model_max_length: longestText },
  });
  tokenizer.save(folder);
  say(
    `tokenizer: byte-level BPE of ${tokenizer.vocabSize} tokens, trained on ${(characters / 1e6).toFixed(1)} MB of the corpus`,
  );
  return tokenizer;
}

/** Characters that decide the merges: more changes little. */
const tokenizerSample = 8e6;
