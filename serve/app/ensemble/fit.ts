import { Chrf } from "../../../core/statistics/chrf.ts";
import { Classification } from "../../../core/statistics/classification.ts";
import { McNemar } from "../../../core/statistics/significance.ts";
import type { AnswerSource, Turn } from "../chat/answers.ts";
import { finalAnswer } from "./choose.ts";
import { combined } from "./classifiers.ts";
import { confidenceOf } from "./router.ts";
import type { ChainRow } from "./threshold.ts";
import { atTemperature, fitTemperature, likeliest, type Probabilities } from "./vote.ts";

/** What several classifiers together come to, on texts that nothing was fitted on. */
export interface VoteReport {
  readonly texts: { readonly fitted: number; readonly held_out: number };
  readonly members: readonly { name: string; temperature: number; nll: number; macro_f1: number }[];
  readonly vote: "soft" | "hard";
  readonly macro_f1: number;
  readonly best_single: string;
  /** Texts that only one of the two has right, and the exact p-value of McNemar's test. */
  readonly mcnemar: { only_best_single: number; only_ensemble: number; p_value: number };
  /** Whether it is at least as good as the best of its members. */
  readonly passes: boolean;
}

/** Texts by what each member holds for likely, and their labels. */
export interface Judged {
  readonly members: readonly string[];
  readonly labels: readonly string[];
  /** By text, then member. */
  readonly probabilities: readonly (readonly Probabilities[])[];
  readonly truth: readonly number[];
}

/** Temperatures of the members, fitted on every other text. */
export function fitMembers({
  members,
  probabilities,
  truth,
}: Judged): { temperature: number; nll: number }[] {
  return members.map((_, member) =>
    fitTemperature(
      probabilities.flatMap((each, i) =>
        i % 2 === 0 ? [{ probabilities: each[member]!, label: truth[i]! }] : [],
      ),
    ),
  );
}

/** Fits the members on every other text, and compares their vote with each of them on the rest. */
export function fitVote(judged: Judged, vote: "soft" | "hard"): VoteReport {
  const { members, labels, probabilities, truth } = judged;
  const fitted = fitMembers(judged);
  const rest = truth.flatMap((_, i) => (i % 2 === 1 ? [i] : []));
  const f1 = (verdict: (i: number) => number) => {
    const metric = new Classification([...labels]);
    for (const i of rest) metric.add(truth[i]!, verdict(i));
    return metric.value().macro.f1;
  };
  const single = members.map((name, member) => ({
    ...{ name, ...fitted[member]! },
    macro_f1: f1((i) => likeliest(probabilities[i]![member]!)),
  }));
  const voted = (i: number) => likeliest(combined(probabilities[i]!, { vote, fitted }));
  const scores = single.map(({ macro_f1 }) => macro_f1);
  const best = scores.indexOf(Math.max(...scores));
  const test = new McNemar();
  for (const i of rest) test.add(likeliest(probabilities[i]![best]!) === truth[i], voted(i) === truth[i]);
  const { onlyA, onlyB, exact } = test.value();
  const macro_f1 = f1(voted);
  return {
    texts: { fitted: truth.length - rest.length, held_out: rest.length },
    ...{ members: single, vote, macro_f1, best_single: members[best]! },
    mcnemar: { only_best_single: onlyA, only_ensemble: onlyB, p_value: exact },
    passes: macro_f1 >= scores[best]!,
  };
}

/** The rows of a chain of classifiers: sure is who gives one label a high probability, good who is right. */
export const chainOfClassifiers = (
  { probabilities, truth }: Judged,
  fitted: readonly { temperature: number }[],
): ChainRow[] =>
  probabilities.map((each, i) =>
    each.map((own, member) => ({
      confidence: Math.max(...atTemperature(own, fitted[member]!.temperature)),
      quality: Number(likeliest(own) === truth[i]),
      costMicrousd: 0,
    })),
  );

/** A question, and what a good answer to it is. */
export interface Question {
  readonly turns: readonly Turn[];
  readonly answer: string;
}

/** 1 for an answer that comes to the same, else how alike the two are (chrF). */
function likeness(text: string, reference: string): number {
  if (finalAnswer(text) === finalAnswer(reference)) return 1;
  const chrf = new Chrf();
  return chrf.score(chrf.statistics(text, reference)) / 100;
}

/** Asks every model of a chain all questions, a few at a time. */
export async function askChain(
  source: AnswerSource,
  chain: readonly string[],
  questions: readonly Question[],
  { maxTokens, progress }: { maxTokens: number; progress: (share: number) => void },
): Promise<ChainRow[]> {
  const rows: ChainRow[] = [];
  let next = 0;
  const work = async () => {
    while (next < questions.length) {
      const place = next++;
      const { turns, answer } = questions[place]!;
      rows[place] = await Promise.all(chain.map((model) => ask(source, model, { turns, answer }, maxTokens)));
      progress(rows.length / questions.length);
    }
  };
  await Promise.all(Array.from({ length: 8 }, work));
  return rows;
}

async function ask(source: AnswerSource, model: string, { turns, answer }: Question, max_tokens: number) {
  let text = "";
  const logprobs: number[] = [];
  const params = { temperature: 0, max_tokens };
  const running = await source.start(
    { model, turns, params, client: "fit", continues: false, scores: true },
    (piece, more = []) => {
      text += piece;
      logprobs.push(...more);
    },
  );
  await running.done;
  const costMicrousd = running.by?.().costMicrousd ?? 0;
  return { confidence: confidenceOf(logprobs), quality: likeness(text, answer), costMicrousd };
}
