import { languageTeller } from "../../../tokenizer/text/index.ts";
import type { TextListener } from "../chat/answers.ts";
import type { ProvidersConfig } from "../providers/config.ts";
import type { LocalTools } from "../providers/local_tools.ts";

type Rule = ProvidersConfig["routes"][string]["rules"][number];

/** Tokens by whose log probabilities an answer's confidence is told. */
const FIRST_TOKENS = 24;

/** exp of the mean log probability of the first tokens; null: none is known. */
export function confidenceOf(logprobs: readonly number[]): number | null {
  const first = logprobs.slice(0, FIRST_TOKENS);
  return first.length === 0 ? null : Math.exp(first.reduce((sum, value) => sum + value, 0) / first.length);
}

/** Holds an answer back until its first tokens tell how sure the model is; a model that tells nothing counts as sure. */
export class Gate {
  readonly #tau: number;
  readonly #own = new AbortController();
  readonly #pass: TextListener;
  readonly #logprobs: number[] = [];
  #held = "";
  #open = false;
  /** Ends with the answer as a whole, or when this one is not sure enough. */
  readonly signal: AbortSignal;

  constructor(tau: number, signal: AbortSignal, pass: TextListener) {
    this.#tau = tau;
    this.#pass = pass;
    this.signal = AbortSignal.any([signal, this.#own.signal]);
  }

  get confidence(): number | null {
    return confidenceOf(this.#logprobs);
  }

  get refused(): boolean {
    return this.#own.signal.aborted;
  }

  hear(text: string, logprobs: readonly number[] = []): void {
    if (this.refused) return;
    if (this.#open) this.#pass(text, logprobs);
    else {
      this.#held += text;
      this.#logprobs.push(...logprobs);
      if (this.#logprobs.length >= FIRST_TOKENS) this.#decide();
    }
  }

  #decide(): void {
    this.#open = (this.confidence ?? 1) >= this.#tau;
    if (!this.#open) this.#own.abort();
    else if (this.#held !== "") this.#pass(this.#held, this.#logprobs);
  }

  /** At the end of the answer. @returns whether it was let through. */
  end(): boolean {
    if (!this.#open && !this.refused) this.#decide();
    return this.#open;
  }
}

const CODE =
  /```|^\s*(?:import |from \w+ import|def \w+\(|function \w+\(|const \w+ =|class \w+|#include|SELECT .+ FROM|public \w+ )|[;{}]\s*$/m;

/** The first rule whose conditions all hold, and why; null: none does. */
export async function ruleFor(
  rules: readonly Rule[],
  { text, documents }: { readonly text: string; readonly documents: boolean },
  { classify }: Pick<LocalTools, "classify">,
): Promise<{ to: string; reason: string } | null> {
  for (const { to, language, contains_code, needs_documents, label } of rules) {
    const reasons: string[] = [];
    if (needs_documents !== undefined) {
      if (documents !== needs_documents) continue;
      reasons.push(needs_documents ? "documents" : "no documents");
    }
    if (language !== undefined) {
      if ((await languageTeller())(text) !== language) continue;
      reasons.push(`language ${language}`);
    }
    if (contains_code !== undefined) {
      if (CODE.test(text) !== contains_code) continue;
      reasons.push(contains_code ? "code" : "no code");
    }
    if (label !== undefined) {
      if ((await classify(label.classifier, text)) !== label.is) continue;
      reasons.push(`${label.classifier} says ${label.is}`);
    }
    return { to, reason: reasons.join(", ") };
  }
  return null;
}
