import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { z } from "zod";
import { KilnError, usageError } from "../../core/errors.ts";
import type { AnyModel } from "../../models/architectures.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { Encoder } from "../../models/encoder.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import { parseWith } from "../../models/formats/validation.ts";
import { type LabelScore, pipeline } from "../../models/pipeline.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { readDocuments } from "../data/index.ts";
import { IdentityBias } from "../metrics/bias.ts";
import { wilsonInterval } from "../metrics/significance.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { wholeTexts } from "./documents.ts";
import { logLikelihoods, type Piece } from "./likelihood.ts";

/** Sets of groups, whose words stand for each other in their order. */
export type IdentityTerms = Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;

export interface BiasFlags {
  data: string[];
  terms: string;
  label?: string;
  field?: string;
}

/** A text told of one group. */
export interface SwappedText {
  group: string;
  text: string;
  /** Where the words of the group are, as indices of the text. */
  places: readonly (readonly [start: number, end: number])[];
}

const shape = z.record(
  z.string(),
  z
    .record(z.string(), z.array(z.string().min(1)).min(1))
    .refine((groups) => Object.keys(groups).length > 1, "expected two groups or more")
    .refine(
      (groups) => new Set(Object.values(groups).map(({ length }) => length)).size === 1,
      "expected as many words of each group: they stand for each other in their order",
    ),
);

/** Reads the sets of a YAML or JSON file. @throws KilnError where it holds something else. */
export function readIdentityTerms(file: string): IdentityTerms {
  return parseWith(shape, parse(readFileSync(file, "utf8")), (path) =>
    [file, ...path.map(String)].join(": "),
  );
}

/** The versions of a text for each group of a set; none where it has no word of the set. */
export function swapTerms(text: string, groups: IdentityTerms[string]): SwappedText[] {
  const indexOf = new Map<string, number>();
  for (const words of Object.values(groups))
    words.forEach((word, i) => {
      const key = word.toLowerCase();
      if (!indexOf.has(key)) indexOf.set(key, i);
    });
  const longestFirst = [...indexOf.keys()].sort((a, b) => b.length - a.length);
  const escaped = longestFirst.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])(?:${escaped.join("|")})(?![\\p{L}\\p{N}_])`, "giu");
  const found = [...text.matchAll(pattern)];
  if (found.length === 0) return [];
  return Object.entries(groups).map(([group, words]) => {
    let [swapped, at] = ["", 0];
    const places = found.map(({ 0: word, index }): [number, number] => {
      swapped += text.slice(at, index);
      at = index + word.length;
      const start = swapped.length;
      swapped += inCaseOf(word, words[indexOf.get(word.toLowerCase())!]);
      return [start, swapped.length];
    });
    return { group, text: swapped + text.slice(at), places };
  });
}

/** The word, with a capital where the other has one. */
const inCaseOf = (other: string, word: string) =>
  other[0] !== other[0].toLowerCase() ? word[0].toUpperCase() + word.slice(1) : word;

/** The text's tokens, of which those of the swapped words are not scored. */
async function pieceOf(tokenizer: Tokenizer, { text, places }: SwappedText): Promise<Piece> {
  const [{ ids, sources, offsets }] = await tokenizer.encodeTexts([text]);
  const before = sources.indexOf(0) === 0 ? (tokenizer.bosId ?? tokenizer.eosId) : null;
  const begin = before === null ? 0 : 1;
  const isSwapped = (i: number) =>
    sources[i] !== 0 || places.some(([start, end]) => offsets[i][0] < end && offsets[i][1] > start);
  const unscored = new Set([...ids.keys()].filter(isSwapped).map((i) => i + begin));
  return { tokens: before === null ? ids : [before, ...ids], from: 1, unscored };
}

type Scores = { readonly score: number; readonly decision?: string }[];

/** What a writing model thinks of versions: the log-likelihood of the words that all of them share. */
async function likelihoodScores(
  { model, tokenizer }: { model: CausalLM; tokenizer: Tokenizer },
  versions: readonly SwappedText[],
): Promise<Scores | null> {
  const pieces = await Promise.all(versions.map((version) => pieceOf(tokenizer, version)));
  if (pieces.some(({ tokens }) => tokens.length - 1 > model.shape.max_position_embeddings)) return null;
  const scores: Scores = [];
  for await (const { logLikelihood } of logLikelihoods(model, pieces)) scores.push({ score: logLikelihood });
  return scores;
}

/** A model and what it says of versions: null of texts that it cannot read whole. */
async function scorerOf(
  loaded: Pick<LoadedModel<AnyModel>, "model" | "tokenizer">,
  name: string,
  label?: string,
) {
  const { model, tokenizer } = loaded;
  if (!(model instanceof Encoder))
    return {
      unit: "nats of the words that all versions share",
      score: (versions: readonly SwappedText[]) =>
        likelihoodScores({ model: model as unknown as CausalLM, tokenizer }, versions),
    };
  if (model.task !== "text-classification" || model.labels.length < 2)
    throw new KilnError(`${name} neither writes text nor chooses among labels; give a model that does`, {
      code: "task_unknown",
    });
  const chosen = label ?? model.labels.at(-1)!;
  if (!model.labels.includes(chosen))
    throw usageError(`--label ${chosen} is no label of ${name}; it has ${model.labels.join(", ")}`);
  const classify = await pipeline("text-classification", loaded);
  return {
    unit: `probability of ${chosen}`,
    score: async (versions: readonly SwappedText[]): Promise<Scores | null> => {
      const texts = versions.map(({ text }) => text);
      const encodings = await tokenizer.encodeTexts(texts);
      if (encodings.some(({ ids }) => ids.length > model.shape.max_position_embeddings)) return null;
      const found = (await classify(texts, { top_k: null })) as LabelScore[][];
      return found.map((labels) => ({
        score: labels.find((one) => one.label === chosen)!.score,
        decision: labels.reduce((best, one) => (one.score > best.score ? one : best)).label,
      }));
    },
  };
}

/**
 * Whether a model treats groups of people alike: each text that names one is told of the others too, and what the model
 * thinks of the rest of the text (a writing model) or of the whole (a classifier) is compared, set by set.
 */
export async function evaluateBias(
  loaded: Pick<LoadedModel<AnyModel>, "model" | "tokenizer">,
  name: string,
  flags: BiasFlags,
): Promise<EvaluationReport> {
  const sets = readIdentityTerms(flags.terms);
  const { unit, score } = await scorerOf(loaded, name, flags.label);
  const leftOut: Record<string, number> = {};
  const leaveOut = (what: string) => {
    leftOut[what] = (leftOut[what] ?? 0) + 1;
  };
  const found = new Map(Object.keys(sets).map((set) => [set, new IdentityBias()]));
  const { field } = flags;
  for await (const text of wholeTexts(readDocuments(flags.data, { field }, leaveOut))) {
    for (const [set, groups] of Object.entries(sets)) {
      const versions = swapTerms(text, groups);
      if (versions.length === 0) continue;
      const scores = await score(versions);
      if (scores === null) leaveOut("texts longer than the model's context");
      else {
        const by = <T>(of: (one: Scores[number]) => T) =>
          Object.fromEntries(versions.map(({ group }, i) => [group, of(scores[i])]));
        const decisions = scores[0].decision === undefined ? undefined : by(({ decision }) => decision!);
        found.get(set)!.add(
          by(({ score: value }) => value),
          decisions,
        );
      }
    }
  }
  const values = Object.fromEntries(
    [...found].map(([set, sums]) => [set, sums.value()] as const).filter(([, { texts }]) => texts > 0),
  );
  if (Object.keys(values).length === 0)
    throw new KilnError(
      `${flags.data.join(", ")}: no text has a word of ${flags.terms}; give texts about people`,
    );
  return {
    title: `Bias of ${name} by swapped identity terms`,
    values: {
      task: "bias",
      model: name,
      data: flags.data,
      terms: flags.terms,
      unit,
      sets: values,
      left_out: leftOut,
    },
    tables: [
      {
        head: ["set", "texts", "mean gap", "decisions that flip"],
        rows: Object.entries(values).map(([set, { texts, gap, flips }]) => [set, texts, gap, flips]),
      },
      {
        head: ["group", "difference from the mean", "highest", "95%"],
        rows: Object.entries(values).flatMap(([set, { groups, texts }]) =>
          Object.entries(groups).map(([group, { difference, highest }]) => [
            `${set}: ${group}`,
            ...[difference, highest / texts, wilsonInterval(highest, texts)],
          ]),
        ),
      },
      ...(Object.keys(leftOut).length > 0 ? [valueTable(leftOut)] : []),
    ],
    notes: [
      `Scores are the ${unit}. Without bias a group is above the mean as often as below it, and no decision flips; what real texts say of groups differs too.`,
    ],
  };
}
