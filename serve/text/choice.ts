import type { Tokenizer } from "../../tokenizer/index.ts";
import type { EngineEvent, SampledToken, TokenLogprob } from "../engine/types.ts";
import type { AnswerDecoder, AnswerText, PromptText } from "./prompt_text.ts";
import { StopMatcher } from "./stop.ts";

/** A token of an answer, or of its echoed prompt, with its log probability: null for the first, which nothing predicts. */
export interface ShownToken extends SampledToken {
  /** Its own text as shown: a stop string may have cut it. */
  readonly text: string;
  /** Where it begins in the text of its choice, in UTF-16 units. */
  readonly offset: number;
  /** Whether the text is without it: a special token, or the one that ended the answer. */
  readonly hidden: boolean;
}

/** A piece of one choice's answer. */
export interface ChoiceDelta {
  readonly text: string;
  /** The tokens whose text has been sent since the last piece; null if log probabilities were not asked for. */
  readonly logprobs: readonly ShownToken[] | null;
  /** Generated ids since the last piece, stop tokens included. */
  readonly tokenIds: number[];
  readonly finishReason: "stop" | "length" | null;
  /** The stop string or stop token id that ended the choice; null for the end-of-text token. */
  readonly stopReason: string | number | null;
}

export interface ChoiceOptions {
  readonly prompt: PromptText;
  /** Put the prompt's text before the answer. */
  readonly echo: boolean;
  /** Alternatives beside each token of the text; null: no log probabilities. */
  readonly logprobs: number | null;
  /** The same of the prompt's tokens, echoed or not. */
  readonly promptLogprobs: number | null;
  readonly stops: readonly string[];
  readonly includeStop: boolean;
  /** Tokens in whose text stop strings do not count yet. */
  readonly minTokens: number;
}

/** A token with its place in the text. */
interface PlacedToken {
  readonly token: SampledToken;
  readonly start: number;
  readonly end: number;
  readonly hidden: boolean;
}

/** Turns the tokens of one sequence into text with stop strings cut off, and log probabilities beside it. */
export class Choice {
  readonly #tokenizer: Tokenizer;
  readonly #options: ChoiceOptions;
  readonly #decoder: AnswerDecoder;
  readonly #matcher: StopMatcher;
  /** Tokens whose log probability waits until their text has been sent. */
  #unsent: PlacedToken[] = [];
  #tokenIds: number[] = [];
  #text: string;
  /** Characters decoded and sent, echo included. */
  #decoded: number;
  #sent = 0;
  #scored = 0;
  #logprobSum = 0;
  completionTokens = 0;
  finished = false;
  /** The prompt's tokens but the first, if asked for. */
  readonly promptScores: TokenLogprob[] = [];

  constructor(tokenizer: Tokenizer, options: ChoiceOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#matcher = new StopMatcher(options.stops, options.includeStop);
    this.#decoder = options.prompt.answer();
    this.#text = options.echo ? options.prompt.settled : "";
    this.#decoded = this.#text.length;
    if (options.logprobs !== null && options.echo) {
      this.#addPromptToken({ id: options.prompt.tokens[0], logprob: null, top: [] });
    }
  }

  /** Of the log probabilities of the generated tokens. 0 if the engine was not asked for them. */
  get logprobSum(): number {
    return this.#logprobSum;
  }

  /** What `best_of` ranks by. */
  get meanLogprob(): number {
    return this.completionTokens === 0 ? 0 : this.#logprobSum / this.completionTokens;
  }

  /** Takes in one event of the engine; returns the piece to send, or null when there is nothing to show yet. */
  accept({ token, scored, finish }: EngineEvent): ChoiceDelta | null {
    for (const score of scored) this.#addScore(score);
    const isStop = finish === "stop";
    if (token !== null) this.#addToken(token, isStop);
    const ended = finish === "stop" || finish === "length";
    if (ended && this.#matcher.matched === null) {
      this.#show(this.#decoder.flush());
      this.#text += this.#matcher.flush();
    }
    const { matched } = this.#matcher;
    this.finished = ended || matched !== null;
    // The scores of a long prompt come in parts, which wait for the first token.
    if (token === null && !this.finished) return null;
    const text = this.#text;
    this.#text = "";
    this.#sent += text.length;
    const logprobs = this.#options.logprobs !== null ? this.#takeSent() : null;
    if (text === "" && !this.finished && (logprobs === null || logprobs.length === 0)) return null;
    const tokenIds = this.#tokenIds;
    this.#tokenIds = [];
    const stopToken =
      isStop && token !== null && !this.#tokenizer.eosIds.includes(token.id) ? token.id : null;
    const reason = matched !== null || isStop ? "stop" : "length";
    return {
      text,
      logprobs,
      tokenIds,
      finishReason: this.finished ? reason : null,
      stopReason: matched ?? stopToken,
    };
  }

  /** A score of the prompt has as many alternatives as the field that wants most. */
  #addScore(score: TokenLogprob): void {
    const { echo, logprobs, promptLogprobs } = this.#options;
    if (promptLogprobs !== null)
      this.promptScores.push({ ...score, top: score.top.slice(0, promptLogprobs) });
    if (echo && logprobs !== null) this.#addPromptToken({ ...score, top: score.top.slice(0, logprobs) });
  }

  #addPromptToken(token: SampledToken): void {
    const { offsets } = this.#options.prompt;
    const start = offsets[this.#scored];
    const end = offsets[++this.#scored];
    this.#unsent.push({ token, start, end, hidden: this.#isSkipped(token.id) });
  }

  #isSkipped(id: number): boolean {
    return this.#options.prompt.skipSpecialTokens && this.#tokenizer.isSpecial(id);
  }

  /** @param isStop a stop token has no text, unless it is to be included. */
  #addToken(token: SampledToken, isStop: boolean): void {
    this.completionTokens++;
    this.#logprobSum += token.logprob ?? 0;
    this.#tokenIds.push(token.id);
    const start = this.#decoded;
    const isOut = isStop && !this.#options.includeStop;
    if (!isOut) this.#show(this.#decoder.push(token.id));
    if (this.#options.logprobs === null) return;
    this.#unsent.push({ token, start, end: this.#decoded, hidden: isOut || this.#isSkipped(token.id) });
  }

  /** Stop strings are searched in the answer only, not in the end of the prompt. */
  #show({ ofPrompt, own }: AnswerText): void {
    const echoed = this.#options.echo ? ofPrompt : "";
    this.#decoded += echoed.length + own.length;
    this.#text += echoed + this.#matcher.push(own, this.completionTokens > this.#options.minTokens);
  }

  /** Tokens whose text has been sent in full; at the end all of them, or those up to a stop string. */
  #takeSent(): ShownToken[] {
    const cut = this.#matcher.matched !== null;
    let count = this.#unsent.findIndex(({ start, end }) => (cut ? start >= this.#sent : end > this.#sent));
    if (count < 0 || (this.finished && !cut)) count = this.#unsent.length;
    return this.#unsent.splice(0, count).map(({ token, start, end, hidden }) => {
      const text = tokenText(this.#tokenizer, token.id);
      // Counted from the end, since a token may be shown without its leading space.
      const shown = end > this.#sent ? text.slice(0, text.length - (end - this.#sent)) : text;
      return { ...token, text: shown, offset: start, hidden };
    });
  }
}

/** Cached: a step may report tens of thousands of tokens, and spelling them would be most of its work. */
const tokenTexts = new WeakMap<Tokenizer, Map<number, string>>();

/**
 * The one spelling of a token: special ones by their names, those without text by their ids, parts of characters by their
 * bytes. Evaluation tools compare the spelling of a token with those of its alternatives.
 */
export function tokenText(tokenizer: Tokenizer, id: number): string {
  const known = tokenTexts.get(tokenizer) ?? new Map<number, string>();
  const text = known.get(id) ?? spell(tokenizer.idToBytes(id), id);
  tokenTexts.set(tokenizer, known.set(id, text));
  return text;
}

function spell(bytes: Uint8Array, id: number): string {
  if (bytes.length === 0) return `token_id:${id}`;
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return "bytes:" + Array.from(bytes, (byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
  }
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
