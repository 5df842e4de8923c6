import { KilnError } from "../../core/errors.ts";
import { byteLength } from "./words.ts";

/** What of the answers was right, 0 to 1. */
export interface ChoiceScore {
  /** By the likelihood of the whole choice. */
  acc: number;
  /** By likelihood per character (Unicode code point) of the choice. */
  accNorm: number;
  /** By likelihood per UTF-8 byte of the choice. */
  accBytes: number;
  count: number;
}

/** The first of the largest. */
function argmax(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

/** Multiple choice by likelihood, as EleutherAI's lm-evaluation-harness scores it. Keeps the counts alone. */
export class MultipleChoice {
  readonly #right = { acc: 0, accNorm: 0, accBytes: 0 };
  #count = 0;

  /**
   * Adds a question and returns which choice each score picks.
   * @param choices the choices' texts
   * @param logLikelihoods of each choice after the question, in nats
   * @param answers the right choice, or several where any of them is right
   * @throws KilnError for another number of likelihoods than choices, an empty choice, NaN, and an answer that is no choice.
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

  /** Accuracies; NaN where nothing was added. */
  value(): ChoiceScore {
    const { acc, accNorm, accBytes } = this.#right;
    const count = this.#count;
    return { acc: acc / count, accNorm: accNorm / count, accBytes: accBytes / count, count };
  }
}
