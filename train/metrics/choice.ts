import { KilnError } from "../../core/errors.ts";
import { byteLength } from "../../core/statistics/words.ts";

/** Accuracies, 0 to 1, for three ways of choosing an answer. */
export interface ChoiceScore {
  /** The choice with the highest log-likelihood. */
  acc: number;
  /** The highest log-likelihood per character (Unicode code point). */
  accNorm: number;
  /** The highest log-likelihood per UTF-8 byte. */
  accBytes: number;
  count: number;
}

/** The index of the first maximum. */
function argmax(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

/** Multiple choice by likelihood, as in EleutherAI's lm-evaluation-harness. Memory does not grow with the data. */
export class MultipleChoice {
  readonly #right = { acc: 0, accNorm: 0, accBytes: 0 };
  #count = 0;

  /**
   * Adds a question and returns the choice that each score picks.
   * @param choices the texts of the choices
   * @param logLikelihoods the log-likelihood of each choice after the question, in nats
   * @param answers the index of the right choice, or of several right ones
   * @throws KilnError if there is not one log-likelihood per choice, one is NaN, a choice is empty, or an answer is not one
   * of the choices.
   */
  add(choices: readonly string[], logLikelihoods: readonly number[], answers: number | readonly number[]) {
    const right = [answers].flat();
    if (
      choices.length === 0 ||
      logLikelihoods.length !== choices.length ||
      logLikelihoods.some(Number.isNaN)
    ) {
      throw new KilnError(
        `a question needs one log-likelihood per choice; got ${choices.length} choices with ${logLikelihoods.join(", ")}`,
      );
    }
    if (choices.includes("") || right.length === 0 || right.some((answer) => choices[answer] === undefined)) {
      throw new KilnError(
        `a question needs choices with text and an answer among them; got ${JSON.stringify(choices)} and ${right.join(", ")}`,
      );
    }
    const per = (length: (choice: string) => number) =>
      argmax(logLikelihoods.map((value, i) => value / length(choices[i])));
    const picked = {
      acc: argmax(logLikelihoods),
      accNorm: per((choice) => [...choice].length),
      accBytes: per(byteLength),
    };
    for (const name of ["acc", "accNorm", "accBytes"] as const)
      if (right.includes(picked[name])) this.#right[name]++;
    this.#count++;
    return picked;
  }

  /** The accuracies. NaN if nothing was added. */
  value(): ChoiceScore {
    const { acc, accNorm, accBytes } = this.#right;
    const count = this.#count;
    return { acc: acc / count, accNorm: accNorm / count, accBytes: accBytes / count, count };
  }
}
