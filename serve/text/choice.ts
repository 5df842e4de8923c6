import type { Tokenizer } from "../../tokenizer/index.ts";
import type { EngineEvent, SampledToken } from "../engine/types.ts";
import type { AnswerDecoder, AnswerText, PromptText } from "./prompt_text.ts";
import { StopMatcher } from "./stop.ts";

/** What the front end needs of a tokenizer. */
export type ServeTokenizer = Pick<Tokenizer, "encodeUpTo" | "streamDecoder" | "idToBytes" | "eosIds">;

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
  readonly prompt: PromptText;
  /** Put the prompt's text before the answer. */
  readonly echo: boolean;
  readonly logprobs: boolean;
  readonly stops: readonly string[];
  readonly includeStop: boolean;
  /** Stop strings count in the text of later tokens than this many. */
  readonly minTokens: number;
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
  readonly #decoder: AnswerDecoder;
  readonly #matcher: StopMatcher;
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
    this.#decoder = options.prompt.answer();
    this.#text = options.echo ? options.prompt.settled : "";
    this.#decoded = this.#text.length;
    if (options.logprobs && options.echo) {
      this.#addPromptEntry({ id: options.prompt.tokens[0], logprob: 0, top: [] }, null);
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
      this.#show(this.#decoder.flush());
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
    const { offsets } = this.#options.prompt;
    const start = offsets[this.#scored];
    const end = offsets[++this.#scored];
    this.#entries.push({ token, logprob, start, end });
  }

  /** @param isStop a stop token leaves no text, unless it is to be shown. */
  #addToken(token: SampledToken, isStop: boolean): void {
    this.completionTokens++;
    this.#logprobSum += token.logprob ?? 0;
    this.#tokenIds.push(token.id);
    const start = this.#decoded;
    if (!isStop || this.#options.includeStop) this.#show(this.#decoder.push(token.id));
    if (this.#options.logprobs) {
      this.#entries.push({ token, logprob: token.logprob, start, end: this.#decoded });
    }
  }

  /** Stop strings are looked for in the answer alone, not in the end of the prompt. */
  #show({ ofPrompt, own }: AnswerText): void {
    const echoed = this.#options.echo ? ofPrompt : "";
    this.#decoded += echoed.length + own.length;
    this.#text += echoed + this.#matcher.push(own, this.completionTokens > this.#options.minTokens);
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
      const text = tokenText(this.#tokenizer, token.id);
      // Counted from the end, since a token may be shown without its leading space.
      logprobs.tokens.push(end > this.#sent ? text.slice(0, text.length - (end - this.#sent)) : text);
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
      const text = tokenText(this.#tokenizer, other);
      top[text] = Math.max(top[text] ?? -Infinity, value);
    }
    return top;
  }
}

/** Making a text costs more than all else of an entry, and a step may release tens of thousands of them. */
const tokenTexts = new WeakMap<ServeTokenizer, Map<number, string>>();

/** One spelling per token, special ones by their names, those without a text by their ids; the same in `tokens` and `top_logprobs`, since evaluation tools compare the two. */
function tokenText(tokenizer: ServeTokenizer, id: number): string {
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
