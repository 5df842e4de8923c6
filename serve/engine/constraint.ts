import type { Grammars, StructuredOutput } from "./grammar/index.ts";
import type { TokenConstraint } from "./types.ts";

/** A constraint as plain data, from which any process that has the tokenizer can make it. */
export type ConstraintSpec =
  | {
      /** The answer has a form. */
      readonly kind: "form";
      readonly form: StructuredOutput;
    }
  | {
      /** Nothing but some tokens: a bit for each. */
      readonly kind: "allowed";
      readonly mask: Uint32Array;
    }
  | {
      /** Anything but some words: the last token of each may not come after the others of it. */
      readonly kind: "banned";
      readonly words: readonly (readonly number[])[];
    };

/** The constraint of one answer. @throws RequestError for a form that cannot be had. */
export function constraintFrom(spec: ConstraintSpec, grammars: Grammars, vocabSize: number): TokenConstraint {
  if (spec.kind === "form") return { ...grammars.compile(spec.form).matcher(), spec };
  if (spec.kind === "allowed") return { spec, allowed: () => spec.mask };
  const mask = new Uint32Array(Math.ceil(vocabSize / 32));
  return {
    spec,
    allowed: (history, promptLength) => {
      mask.fill(0xffffffff);
      for (const ids of spec.words) {
        const from = history.length - (ids.length - 1);
        const follows =
          from >= promptLength && ids.every((id, i) => i === ids.length - 1 || history[from + i] === id);
        const id = ids[ids.length - 1];
        if (follows) mask[id >>> 5] &= ~(1 << (id & 31));
      }
      return mask;
    },
  };
}
