import type { StreamDecoder, Tokenizer } from "../tokenizer/index.ts";
import { StopMatcher } from "./stop.ts";
import type { EngineEvent, SampledToken } from "./types.ts";

/** What the front end needs of a tokenizer. */
export type ServeTokenizer = Pick<
  Tokenizer,
  "encode" | "decode" | "streamDecoder" | "idToBytes" | "isSpecial" | "eosIds"
>;

/** `logprobs` of a completion choice, columns of equal length. */
export interface CompletionLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

/** A piece of one choice's answer. */
export interface ChoiceDelta {
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  /** Generated ids since the last piece, stop tokens included. */
  readonly tokenIds: number[];
  readonly finishReason: "stop" | "length" | null;
  /** The stop string or stop token id that ended the choice; null for the end-of-text token. */
  readonly stopReason: string | number | null;
}

export interface ChoiceOptions {
  readonly prompt: readonly number[];
  /** Text to put before the answer, or null. */
  readonly echo: string | null;
  readonly logprobs: boolean;
  readonly stops: readonly string[];
  readonly includeStop: boolean;
  readonly skipSpecialTokens: boolean;
}

/** A token with its place in the text; `logprob` null for the first of the prompt, which nothing predicts. */
interface Entry {
  readonly token: SampledToken;
  readonly logprob: number | null;
  readonly start: number;
  readonly end: number;
}

/** Turns the tokens of one sequence into text, stop strings cut off, with log probabilities beside it. */
export class Choice {
  readonly #tokenizer: ServeTokenizer;
  readonly #options: ChoiceOptions;
  readonly #decoder: StreamDecoder;
  readonly #matcher: StopMatcher;
  /** Where the text of each prompt token begins, and where that of the last ends. */
  readonly #promptOffsets: number[] = [0];
  /** Tokens whose log probability has not been sent, because their text has not. */
  #entries: Entry[] = [];
  #tokenIds: number[] = [];
  #text: string;
  /** Characters decoded and sent, echo included. */
  #decoded: number;
  #sent = 0;
  #scored = 0;
  #logprobSum = 0;
  completionTokens = 0;
  finished = false;

  constructor(tokenizer: ServeTokenizer, options: ChoiceOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#matcher = new StopMatcher(options.stops, options.includeStop);
    // The prompt goes through the decoder first: how a token reads depends on what is before it (a leading space).
    this.#decoder = tokenizer.streamDecoder({ skipSpecialTokens: options.skipSpecialTokens });
    for (const id of options.prompt) {
      this.#promptOffsets.push(this.#promptOffsets.at(-1)! + this.#decoder.push(id).length);
    }
    this.#text = options.echo ?? "";
    this.#decoded = this.#text.length;
    if (options.logprobs && options.echo !== null) {
      this.#addPromptEntry({ id: options.prompt[0]!, logprob: 0, top: [] }, null);
    }
  }

  /** Mean log probability of the generated tokens: what `best_of` ranks by. Of no meaning where they were not asked for. */
  get meanLogprob(): number {
    return this.completionTokens === 0 ? 0 : this.#logprobSum / this.completionTokens;
  }

  /** Takes in one event of the engine; returns the piece to send, or null when there is nothing to show yet. */
  accept({ token, scored, finish }: EngineEvent): ChoiceDelta | null {
    for (const score of scored) this.#addPromptEntry(score, score.logprob);
    const isStop = finish === "stop";
    if (token !== null) this.#addToken(token, isStop);
    const ended = finish === "stop" || finish === "length";
    if (ended && this.#matcher.matched === null) {
      this.#text += this.#matcher.push(this.#decoder.flush());
      this.#text += this.#matcher.flush();
    }
    const { matched } = this.#matcher;
    this.finished = ended || matched !== null;
    // The scores of a long prompt come in parts; they wait for the first token.
    if (token === null && !this.finished) return null;
    const text = this.#text;
    this.#text = "";
    this.#sent += text.length;
    const logprobs = this.#options.logprobs ? this.#releaseEntries() : null;
    if (text === "" && !this.finished && (logprobs === null || logprobs.tokens.length === 0)) return null;
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

  #addPromptEntry(token: SampledToken, logprob: number | null): void {
    const start = this.#promptOffsets[this.#scored]!;
    const end = this.#promptOffsets[++this.#scored]!;
    this.#entries.push({ token, logprob, start, end });
  }

  /** @param isStop a stop token leaves no text, unless it is to be shown. */
  #addToken(token: SampledToken, isStop: boolean): void {
    this.completionTokens++;
    this.#logprobSum += token.logprob ?? 0;
    this.#tokenIds.push(token.id);
    const text = isStop && !this.#options.includeStop ? "" : this.#decoder.push(token.id);
    const start = this.#decoded;
    this.#decoded += text.length;
    if (this.#options.logprobs) {
      this.#entries.push({ token, logprob: token.logprob, start, end: this.#decoded });
    }
    this.#text += this.#matcher.push(text);
  }

  /** Log probabilities of the tokens whose text has been sent in full; at the end, of all up to a stop string. */
  #releaseEntries(): CompletionLogprobs {
    const cut = this.#matcher.matched !== null;
    let count = this.#entries.findIndex(({ start, end }) => (cut ? start >= this.#sent : end > this.#sent));
    if (count < 0 || (this.finished && !cut)) count = this.#entries.length;
    const released = this.#entries.slice(0, count);
    this.#entries = this.#entries.slice(count);
    const logprobs: CompletionLogprobs = {
      tokens: [],
      token_logprobs: [],
      top_logprobs: [],
      text_offset: [],
    };
    for (const { token, logprob, start, end } of released) {
      const text = this.#tokenText(token.id);
      logprobs.tokens.push(end > this.#sent ? text.slice(0, this.#sent - start) : text);
      logprobs.token_logprobs.push(logprob);
      logprobs.top_logprobs.push(logprob === null ? null : this.#topLogprobs(token, logprob));
      logprobs.text_offset.push(start);
    }
    return logprobs;
  }

  /** The likeliest tokens and the chosen one, by text; of two that read the same, the likelier counts. */
  #topLogprobs({ id, top: likeliest }: SampledToken, logprob: number): Record<string, number> {
    // Without a prototype, a token that reads "__proto__" is a key like any other.
    const top: Record<string, number> = Object.create(null);
    for (const [other, value] of [...likeliest, [id, logprob] as const]) {
      const text = this.#tokenText(other);
      top[text] = Math.max(top[text] ?? -Infinity, value);
    }
    return top;
  }

  /** One spelling per token, the same in `tokens` and `top_logprobs`, since evaluation tools compare the two. */
  #tokenText(id: number): string {
    if (this.#options.skipSpecialTokens && this.#tokenizer.isSpecial(id)) return "";
    const bytes = this.#tokenizer.idToBytes(id);
    try {
      return strictUtf8.decode(bytes);
    } catch {
      return "bytes:" + Array.from(bytes, (byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
    }
  }
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
