import { KilnError } from "../../core/errors.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { readDocuments } from "../data/index.ts";
import { permutation } from "../data/permutation.ts";
import { Coherence } from "../metrics/coherence.ts";
import { wilsonInterval } from "../metrics/significance.ts";
import { type EvaluationReport, valueTable } from "../report/evaluation.ts";
import { wholeTexts } from "./documents.ts";
import { logLikelihoods, type Piece } from "./likelihood.ts";
import type { Scorer } from "./perplexity.ts";

export interface CoherenceFlags {
  data: string[];
  seed: number;
  field?: string;
}

const sentences = new Intl.Segmenter("en", { granularity: "sentence" });
const contexts = ["own", "shuffled", "foreign"] as const;
type Context = (typeof contexts)[number];

/** The sentences before the last, and that one; null of texts with fewer than three. */
export function lastSentence(text: string): { context: string[]; last: string } | null {
  const found = [...sentences.segment(text)].map(({ segment }) => segment.trim()).filter(Boolean);
  return found.length < 3 ? null : { context: found.slice(0, -1), last: found.at(-1)! };
}

/** The sentences in another order than theirs. */
export function shuffled(context: readonly string[], ...key: number[]): string[] {
  const order = [...permutation(context.length, ...key)];
  const isSame = order.every((from, to) => context[from] === context[to]);
  // A rotation is another order, unless all sentences are the same.
  return isSame ? [...context.slice(1), context[0]] : order.map((i) => context[i]);
}

async function pieceOf(tokenizer: Tokenizer, context: readonly string[], last: string): Promise<Piece> {
  const before = context.join(" ");
  const [first, whole] = await tokenizer.encodeBatch([before, `${before} ${last}`], {
    addSpecialTokens: false,
  });
  const prefix = tokenizer.addsBos ? tokenizer.bosId : null;
  const begin = prefix === null ? [] : [prefix];
  return { tokens: [...begin, ...whole], from: Math.max(1, begin.length + first.length) };
}

/**
 * Whether a model's predictions owe something to the order and the subject of what comes before: the last sentence of each
 * text after its own context, after the same sentences shuffled, and after the context of the text before.
 */
export async function evaluateCoherence(
  { model, tokenizer }: Scorer,
  name: string,
  flags: CoherenceFlags,
): Promise<EvaluationReport> {
  const leftOut: Record<string, number> = {};
  const leaveOut = (what: string) => {
    leftOut[what] = (leftOut[what] ?? 0) + 1;
  };
  const { field, seed } = flags;
  async function* pieces(): AsyncGenerator<Piece & { context: Context }> {
    let [number, foreign]: [number, string[] | null] = [0, null];
    for await (const text of wholeTexts(readDocuments(flags.data, { field }, leaveOut))) {
      const found = lastSentence(text);
      number++;
      if (found === null) {
        leaveOut("texts of fewer than three sentences");
        continue;
      }
      const { context, last } = found;
      const given = { own: context, shuffled: shuffled(context, seed, number), foreign };
      foreign = context;
      if (given.foreign === null) continue; // the first lends its context only
      const made = await Promise.all(contexts.map((each) => pieceOf(tokenizer, given[each]!, last)));
      if (made.some(({ tokens }) => tokens.length - 1 > model.shape.max_position_embeddings))
        leaveOut("texts longer than the model's context");
      else for (const [i, piece] of made.entries()) yield { ...piece, context: contexts[i] };
    }
  }
  const sums = { shuffled: new Coherence(), foreign: new Coherence() };
  let own = 0;
  for await (const { piece, logLikelihood } of logLikelihoods(model, pieces())) {
    if (piece.context === "own") own = logLikelihood;
    else sums[piece.context].add(own, logLikelihood, piece.tokens.length - piece.from);
  }
  const values = { shuffled: sums.shuffled.value(), foreign: sums.foreign.value() };
  if (values.shuffled.texts === 0)
    throw new KilnError(
      `${flags.data.join(", ")}: no two texts of three sentences that the model can read; give longer texts`,
    );
  return {
    title: `Coherence of ${name}`,
    values: { task: "coherence", model: name, data: flags.data, seed, ...values, left_out: leftOut },
    tables: [
      {
        head: ["against", "nats a token gained", "share of texts", "95%"],
        rows: Object.entries(values).map(([against, { gain, wins, texts }]) => [
          ...[against, gain, wins / texts, wilsonInterval(wins, texts)],
        ]),
      },
      valueTable({ texts: values.shuffled.texts, ...leftOut }),
    ],
    notes: [
      "The last sentence of each text after its own context, against the same sentences shuffled and against the context of the text before. A model that reads no context has 0 and a half.",
    ],
  };
}
