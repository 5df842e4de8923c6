import { type ConstraintSpec, constraintFrom } from "../engine/constraint.ts";
import { invalid } from "../engine/errors.ts";
import type { Grammars } from "../engine/grammar/index.ts";
import type { TokenConstraint } from "../engine/types.ts";
import type { SamplingParams } from "./request.ts";

/** What constraints need of the model. */
export interface ConstraintSource {
  readonly grammars: Grammars;
  readonly vocabSize: number;
  /** Tokens that may not come before `min_tokens`. */
  readonly stopTokenIds: ReadonlySet<number>;
  /** The ids of a text, without special tokens around them. */
  encode(text: string): Promise<readonly number[]>;
}

/**
 * What a request lets its answers consist of, as a function that makes the constraint of one answer.
 * @throws RequestError for what cannot be had, and for fields that contradict each other.
 */
export async function constraintOf(
  request: SamplingParams,
  source: ConstraintSource,
): Promise<() => TokenConstraint | null> {
  const { structured, allowed_token_ids: allowed, bad_words: words } = request;
  const asked = [
    structured == null ? [] : [structured.param ?? "structured"],
    allowed == null ? [] : ["allowed_token_ids"],
    words == null || words.length === 0 ? [] : ["bad_words"],
  ].flat();
  if (asked.length > 1) throw invalid(asked[1], `${asked[1]} cannot be combined with ${asked[0]}`);
  if (asked.length === 0) return () => null;
  const { grammars, vocabSize } = source;
  let spec: ConstraintSpec;
  if (structured != null) spec = structuredAnswers(request, grammars);
  else if (allowed != null) spec = onlyAllowed(allowed, request, source);
  else spec = await withoutWords(words!, request, source);
  return () => constraintFrom(spec, grammars, vocabSize);
}

function structuredAnswers(request: SamplingParams, grammars: Grammars): ConstraintSpec {
  const { param = "structured" } = request.structured!;
  if (request.ignore_eos) {
    throw invalid(
      "ignore_eos",
      `ignore_eos cannot be combined with ${param}, whose answers end by themselves`,
    );
  }
  if (request.min_tokens) {
    throw invalid(
      "min_tokens",
      `min_tokens cannot be combined with ${param}, which says when an answer may end`,
    );
  }
  const form = request.structured!;
  // Refuses what cannot be had.
  grammars.compile(form);
  return { kind: "form", form };
}

/** Nothing but some tokens. */
function onlyAllowed(
  allowed: readonly number[],
  { min_tokens }: SamplingParams,
  { vocabSize, stopTokenIds }: ConstraintSource,
): ConstraintSpec {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32));
  for (const id of allowed) {
    if (!(Number.isInteger(id) && id >= 0 && id < vocabSize)) {
      throw invalid("allowed_token_ids", `allowed_token_ids must be token ids from 0 to ${vocabSize - 1}`);
    }
    mask[id >>> 5] |= 1 << (id & 31);
  }
  if (allowed.length === 0) throw invalid("allowed_token_ids", "allowed_token_ids must not be empty");
  if (min_tokens && allowed.every((id) => stopTokenIds.has(id))) {
    throw invalid("allowed_token_ids", "allowed_token_ids leave no token to begin with, as min_tokens wants");
  }
  return { kind: "allowed", mask };
}

/**
 * Anything but some words: the last token of each is not allowed after the others of it. A word counts as it is and after a
 * space. vLLM counts the second only where it has as many tokens, so that a word with a token of its own slips through.
 */
async function withoutWords(
  words: readonly string[],
  { min_tokens }: SamplingParams,
  { vocabSize, stopTokenIds, encode }: ConstraintSource,
): Promise<ConstraintSpec> {
  const banned: (readonly number[])[] = [];
  for (const word of words) {
    if (word.trim() === "") throw invalid("bad_words", "bad_words must not be empty");
    const bare = await encode(word.trimStart());
    const spaced = await encode(` ${word.trimStart()}`);
    banned.push(bare);
    // One that ends like the first, after a token for the space, is no other word.
    if (bare.some((id, i) => spaced.at(i - bare.length) !== id)) banned.push(spaced);
  }
  const last = new Set([...banned.map((ids) => ids[ids.length - 1]), ...(min_tokens ? stopTokenIds : [])]);
  if (last.size >= vocabSize) throw invalid("bad_words", "bad_words leave no token to write");
  return { kind: "banned", words: banned };
}
