import { invalid } from "../engine/errors.ts";
import type { Grammars } from "../engine/grammar/index.ts";
import type { TokenConstraint } from "../engine/types.ts";
import type { SamplingParams } from "./request.ts";

/**
 * What a request lets its answers consist of, as a function that makes the constraint of one answer.
 * @throws RequestError for a form that cannot be had, and for fields that contradict it.
 */
export function constraintOf(request: SamplingParams, grammars: Grammars): () => TokenConstraint | null {
  const { structured } = request;
  if (structured == null) return () => null;
  const { param = "structured" } = structured;
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
  const grammar = grammars.compile(structured);
  return () => grammar.matcher();
}
