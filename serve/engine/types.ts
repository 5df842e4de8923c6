import type { PagedItem } from "../../models/paged_decoder.ts";
import type { ConstraintSpec } from "./constraint.ts";
import type { RequestError } from "./errors.ts";
import type { Sequence } from "./sequence.ts";

/** How a request ended: at a stop token, at max_tokens, or cut short by the client or a failure. */
export type FinishReason = "stop" | "length" | "abort" | "error";

/** How the next token is chosen from a row of logits. Defaults are filled in. */
export interface Sampling {
  /** 0 = greedy. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 = off. */
  readonly topK: number;
  /** Keep the smallest set of most likely tokens whose mass reaches topP; 1 = off. */
  readonly topP: number;
  /** Keep tokens at least minP times as likely as the likeliest; 0 = off. */
  readonly minP: number;
  /** Divides positive and multiplies negative logits of tokens in prompt and output (Keskar et al. 2019, CTRL); 1 = off. */
  readonly repetitionPenalty: number;
  /** Subtracted once for each time that a token was generated; 0 = off. */
  readonly frequencyPenalty: number;
  /** Subtracted if a token was generated at all; 0 = off. */
  readonly presencePenalty: number;
  /** Added to the logits by token id. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** 64-bit seed as [low, high] 32-bit words; with `choice` and the position it keys every random draw. */
  readonly seed: readonly [number, number];
  /** Which of the n answers to one prompt this is. */
  readonly choice: number;
}

/** Which tokens may come next in one sequence, by what it holds so far. */
export interface TokenConstraint {
  /** What it is made from. Absent: only this process has it. */
  readonly spec?: ConstraintSpec;
  /** A bit for each token id, the lowest bit of the first word for id 0. Valid until the next call. */
  allowed(history: readonly number[], promptLength: number): Uint32Array;
}

/** One sequence for the engine to continue. It holds tokens only; text and stop strings are the front end's. */
export interface Request {
  readonly id: string;
  /** Who asks: clients share the model evenly, however much each asks for. */
  readonly client: string;
  /** At least one token id. */
  readonly prompt: readonly number[];
  readonly sampling: Sampling;
  /** 0 computes (and scores) the prompt only. */
  readonly maxTokens: number;
  /** No stop token is sampled before this many tokens are generated. */
  readonly minTokens: number;
  /** Sampling one of these ends the request with `stop`. */
  readonly stopTokenIds: ReadonlySet<number>;
  /** Of this sequence alone; null: any token may come. */
  readonly constraint: TokenConstraint | null;
  /** Lower runs first. */
  readonly priority: number;
  /** How many most likely alternatives to report beside each token and its log probability; null: neither is computed. */
  readonly topLogprobs: number | null;
  /** Report the log probability of each prompt token but the first. */
  readonly scorePrompt: boolean;
  /** Alternatives to report beside those; default `topLogprobs`. */
  readonly promptLogprobs?: number | null;
  /** What the model is adapted with, or null. Its K and V are its own. */
  readonly adapter: string | null;
  /** Cached K and V are shared only between requests with the same salt. */
  readonly cacheSalt: string | null;
}

/**
 * What one step computes: K/V and hidden states of tokens start..start+count of each sequence.
 * Prefill, a chunk of it, decode (count 1) and recompute after preemption are the same thing with other numbers.
 */
export interface StepPlan {
  readonly items: readonly PlanItem[];
  /** Whose the items are. */
  readonly sequences: readonly Sequence[];
  readonly preempted: readonly string[];
}

export interface PlanItem {
  readonly id: string;
  readonly start: number;
  readonly count: number;
  /** Whether its last position predicts a token of the answer. */
  readonly samples: boolean;
}

/** A sampled token; `logprob` is null and `top` empty where nobody asked. */
export interface SampledToken {
  readonly id: number;
  /** Under the model's own distribution: before bias, penalties and temperature. */
  readonly logprob: number | null;
  /** The most likely tokens, best first, at most `topLogprobs` of them. */
  readonly top: readonly (readonly [id: number, logprob: number])[];
}

/** A token with its log probability. */
export interface TokenLogprob extends SampledToken {
  readonly logprob: number;
  /** How many tokens are at least as likely and come first: 1 for the likeliest. */
  readonly rank: number;
}

/** What the sampler needs besides the row of logits. Valid only during the step: `history` grows afterwards. */
export interface SampleSpec {
  readonly params: Sampling;
  /** Prompt and generated tokens so far; without the last if that is fed. */
  readonly history: readonly number[];
  readonly promptLength: number;
  /** Index in the sequence that the sampled token will have (= history.length, or one more). */
  readonly position: number;
  /** Token ids that may not be sampled now, or null. */
  readonly banned: ReadonlySet<number> | null;
  /** As in the request. */
  readonly constraint: TokenConstraint | null;
  /** As in the request. */
  readonly topLogprobs: number | null;
}

/** Log probabilities wanted of known tokens: the logits of `rows[i]` predict `targets[i]`. */
export interface ScoreSpec {
  readonly targets: readonly number[];
  readonly topLogprobs: number;
}

/** A plan item with its tokens and blocks, and what becomes of the logits of its `rows`. */
export interface RunItem extends PagedItem {
  readonly id: string;
  /** If `isFed`, the last is -1: it is the one that the step before samples for this request. */
  readonly tokens: readonly number[];
  readonly isFed: boolean;
  readonly blockTable: Int32Array;
  /** Sample from the logits of the last row, or null in the middle of a prompt. */
  readonly sample: SampleSpec | null;
  readonly score: ScoreSpec | null;
}

/** Result of one item. An `error` ends that request alone. */
export interface ItemResult {
  readonly sampled: SampledToken | null;
  /** One entry per target of the item's `score`. */
  readonly scored: readonly TokenLogprob[];
  readonly error?: string;
}

/** Adapters that a runner has beside each other on its model, by the names that requests give as `adapter`. */
export interface AdapterHost {
  /** Reads an adapter and makes it ready. @throws KilnError for one that cannot be had; nothing is changed then. */
  add(name: string, path: string): Promise<void>;
  /** Gives its memory back. No request may ask for it any more. */
  remove(name: string): Promise<void>;
}

/**
 * The model behind the engine. `run` writes K and V of every item through its block table before any row reads them, and
 * gives each row the same numbers whatever else is in the step. A rejected promise ends every request of the step.
 */
export interface Runner {
  readonly vocabSize: number;
  readonly maxModelLen: number;
  /** Positions per block of the K/V pool. */
  readonly blockSize: number;
  /** Blocks in the K/V pool. */
  readonly blockCount: number;
  /** Changes with the weights, where they can: what was computed with others is not used again. */
  readonly weights?: string;
  /** Absent: its model takes none. */
  readonly adapters?: AdapterHost;
  /**
   * Whether the token that an item samples stays where the next step can take it. If this holds for all of a step, the next
   * may be given before its results are there, with items that are fed. Steps run in the order in which they are given. What
   * is fed after an item or a step that failed, and what becomes of it, does not matter.
   */
  feeds?(item: RunItem): boolean;
  /** Results in the order of the items. Reads what the items refer to before it first waits. */
  run(items: readonly RunItem[]): Promise<readonly ItemResult[]>;
}

/** What a request's listener hears: zero or more events with `finish` null, then exactly one with `finish` set. */
export interface EngineEvent {
  /** Prompt tokens that were not computed because the cache held them. */
  readonly cachedTokens: number;
  readonly token: SampledToken | null;
  readonly scored: readonly TokenLogprob[];
  readonly finish: FinishReason | null;
  /** Set when `finish` is "error". */
  readonly error: RequestError | null;
}
