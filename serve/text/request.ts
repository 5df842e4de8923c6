import type { StructuredOutput } from "../engine/grammar/index.ts";

/**
 * How a prompt is continued. Names and meanings are those of vLLM's `SamplingParams`, which OpenAI's fields are a part of;
 * refusals quote them. Absent and null both mean the default.
 */
export interface SamplingParams {
  /** Answers per prompt; default 1. */
  n?: number | null;
  /** Answers computed per prompt, of which the `n` with the highest mean log probability are kept; default `n`. */
  best_of?: number | null;
  /** Tokens to generate at most; default: as many as the context holds. */
  max_tokens?: number | null;
  /** Tokens before which neither a stop token nor a stop string ends the answer; default 0. */
  min_tokens?: number | null;
  /** 0 takes the likeliest token; default 1. */
  temperature?: number | null;
  /** Keep the k likeliest tokens; default 0 and -1: all. */
  top_k?: number | null;
  /** Keep the smallest set of likeliest tokens whose mass reaches this; default 1: all. */
  top_p?: number | null;
  /** Keep tokens at least this share as likely as the likeliest; default 0: all. */
  min_p?: number | null;
  repetition_penalty?: number | null;
  frequency_penalty?: number | null;
  presence_penalty?: number | null;
  /** Added to the logits, by token id. */
  logit_bias?: Record<string, number> | null;
  /** A 64-bit integer (above 2^53 as a bigint); by default each request draws its own. */
  seed?: number | bigint | null;
  /** Strings that end the answer. */
  stop?: string | readonly string[] | null;
  stop_token_ids?: readonly number[] | null;
  /** Whether to go on after the end-of-text token. */
  ignore_eos?: boolean | null;
  /** The only tokens that may be written; not with `structured` or `bad_words`. */
  allowed_token_ids?: readonly number[] | null;
  /** Words that are not written: the last token of each is not taken after the others of it. */
  bad_words?: readonly string[] | null;
  /** Read the last of a prompt's tokens only, this many; -1: as many as fit the context with `max_tokens`. Default: all. */
  truncate_prompt_tokens?: number | null;
  /** Alternatives reported beside each token of the prompt and its log probability; null: neither is computed. */
  prompt_logprobs?: number | null;
  include_stop_str_in_output?: boolean | null;
  /** The form that the answer must have; it has it when a stop token ends it, and may be cut at `max_tokens`. */
  structured?: StructuredOutput | null;
  /** Whether special tokens have no text; default true. */
  skip_special_tokens?: boolean | null;
  /** Alternatives reported beside each token and its log probability; null: neither is computed. */
  logprobs?: number | null;
}

/** A text, its token ids, or a text in pieces: plain text, and ids of special tokens (`Tokenizer.encodePieces`). */
export type Prompt = string | readonly number[] | { readonly pieces: readonly (string | number)[] };

/** What the front end is asked for, whichever protocol asked. */
export interface TextRequest extends SamplingParams {
  /** At least one. */
  readonly prompts: readonly Prompt[];
  /** What refusals call the prompt; default `prompt`. */
  readonly prompt_field?: string;
  /** Who asks: clients share the model evenly, however much each asks for. */
  readonly client: string;
  /** Lower runs first; default 0. */
  readonly priority?: number | null;
  /** What is cached of a prompt is shared only with requests of the same salt; default none. */
  readonly cache_salt?: string | null;
  /** Put the prompt's text before each answer, and with `logprobs` its scores. */
  readonly echo?: boolean | null;
  /** Add the special tokens that the tokenizer puts around a text; default true. */
  readonly add_special_tokens?: boolean | null;
  /** Let the end of the context end an answer that may be longer, instead of refusing the request. */
  readonly fit_context?: boolean;
}
