import { Chrf } from "../../../core/statistics/chrf.ts";
import { textTraits } from "./quality.ts";

/** One of several answers to the same question. */
export interface Candidate {
  readonly text: string;
  /** Mean log probability of its tokens; null: not known. */
  readonly meanLogprob: number | null;
}

export type Choice = "mbr" | "rerank" | "vote";

/**
 * The place of the best candidate, of equal ones the first's.
 * mbr (minimum Bayes risk, Kumar and Byrne 2004): the one that is most like the others, by the mean chrF against them.
 * rerank: the likeliest, less what repeats itself and what is unusually short or long.
 * vote: of those that give the most frequent answer, the likeliest.
 */
export function chooseBest(candidates: readonly Candidate[], how: Choice): number {
  const scores = { mbr, rerank, vote }[how](candidates);
  return scores.indexOf(Math.max(...scores));
}

function mbr(candidates: readonly Candidate[]): number[] {
  const chrf = new Chrf();
  return candidates.map(({ text }, i) => {
    const others = candidates.filter((_, j) => j !== i);
    const sum = others.reduce((total, other) => total + chrf.score(chrf.statistics(text, other.text)), 0);
    return others.length === 0 ? 0 : sum / others.length;
  });
}

function rerank(candidates: readonly Candidate[]): number[] {
  const lengths = candidates.map(({ text }) => Math.max(1, [...text].length));
  const sorted = lengths.toSorted((a, b) => a - b);
  const median = (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
  return candidates.map(
    ({ text, meanLogprob }, i) =>
      (meanLogprob ?? 0) - 0.5 * textTraits(text).repetition - 0.1 * Math.abs(Math.log(lengths[i]! / median)),
  );
}

function vote(candidates: readonly Candidate[]): number[] {
  const answers = candidates.map(({ text }) => finalAnswer(text));
  return candidates.map(({ meanLogprob }, i) => {
    const votes = answers.filter((answer) => answer === answers[i]).length;
    // A log probability is at most 0, so that no vote is outweighed.
    return votes + Math.exp(meanLogprob ?? -1) / 2;
  });
}

/** What an answer comes to: its last line that is not empty, without case, marks at the ends and what announces it. */
export function finalAnswer(text: string): string {
  const line = text.trim().split("\n").at(-1)!.toLowerCase().normalize("NFKC");
  const said = line.replace(/^.*\b(?:answer|result)\s*(?:is|:|=)\s*/, "");
  return said.replace(/\s+/g, " ").replace(/^[\s\p{P}$]+|[\s\p{P}]+$/gu, "");
}
