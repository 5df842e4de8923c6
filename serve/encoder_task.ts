import { existsSync } from "node:fs";
import { join } from "node:path";
import { KilnError } from "../core/errors.ts";
import { isObject, readJson } from "../core/platform/files.ts";
import { type ModelConfig, shapeOf } from "../models/architectures.ts";
import type { Encoder } from "../models/encoder.ts";
import { labelNames, taskOf } from "../models/labels.ts";
import { labelScores, modelPooling } from "../models/pipeline.ts";
import type { EmbeddingSettings } from "./engine/encoder_runner.ts";
import type { EncoderTask } from "./text/encoder_frontend.ts";

/** What the files of sentence-transformers, and its keys of config.json, say of an encoder. */
export interface SentenceSettings {
  readonly embedding: EmbeddingSettings;
  readonly matryoshka: readonly number[] | boolean;
  /** Tokens that it reads of a text, if less than it has positions. */
  readonly longest: number;
  /** Whether a cross-encoder's score is its logit. */
  readonly rawScore: boolean;
}

/** Without such files a vector is the mean of all tokens, of length 1. */
export async function sentenceSettings(
  directory: string | undefined,
  path: string,
): Promise<SentenceSettings> {
  const read = async (name: string) => {
    const file = directory === undefined ? "" : join(directory, name);
    return existsSync(file) ? await readJson(file) : null;
  };
  const modules = (await read("modules.json")) as { type?: string }[] | null;
  const kinds = modules?.map(({ type }) => String(type).split(".").at(-1)!) ?? ["Normalize"];
  const other = kinds.find((kind) => !["Transformer", "Pooling", "Normalize"].includes(kind));
  if (other !== undefined) {
    throw new KilnError(
      `${path}: modules.json has a ${other}, which kiln does not compute; serve a model of a transformer and a pooling alone`,
    );
  }
  const config = ((await read("config.json")) ?? {}) as Record<string, unknown>;
  const sentence = (await read("sentence_bert_config.json")) as { max_seq_length?: unknown } | null;
  const {
    matryoshka_dimensions: dimensions,
    is_matryoshka,
    sbert_ce_default_activation_function: old,
  } = config;
  const own = isObject(config.sentence_transformers) ? config.sentence_transformers.activation_fn : old;
  return {
    embedding: {
      pooling: (directory === undefined ? null : await modelPooling(directory)) ?? "mean",
      normalize: kinds.includes("Normalize"),
    },
    matryoshka: Array.isArray(dimensions) ? dimensions.map(Number) : is_matryoshka === true,
    longest: Number(sentence?.max_seq_length) || Number.POSITIVE_INFINITY,
    rawScore: String(own).endsWith("Identity"),
  };
}

/** What a model with this configuration is for. @throws KilnError for one that cannot be served. */
export function encoderTask(
  config: Encoder["config"],
  { matryoshka, rawScore }: SentenceSettings,
  path: string,
): EncoderTask {
  const task = taskOf(config);
  const labels = labelNames(config);
  if (task === "feature-extraction" || task === "fill-mask")
    return { name: "embed", width: shapeOf(config as ModelConfig).hidden_size, matryoshka };
  if (task !== "text-classification") {
    throw new KilnError(
      `${path} is for ${task}, which kiln serve has no route for; use pipeline("${task}") of kiln/models`,
    );
  }
  if (labels.length > 1)
    return { name: "classify", labels, scores: (logits) => labelScores({ config, labels }, logits) };
  const scores = (logits: Float32Array) => (rawScore ? [...logits] : labelScores({ config, labels }, logits));
  return { name: "score", labels, scores };
}
