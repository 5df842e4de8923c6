import { invalid } from "../errors.ts";
import { Automaton } from "./automaton.ts";
import { Effort } from "./effort.ts";
import { addAnyObject } from "./json.ts";
import { Grammar } from "./matcher.ts";
import { compileRegex } from "./regex.ts";
import { addSchema } from "./schema.ts";
import { type TokenBytes, Vocabulary } from "./vocabulary.ts";

export type { Grammar } from "./matcher.ts";
export type { TokenBytes } from "./vocabulary.ts";

/** The form that an answer must have; `param` is the field that asked for it, which refusals name. */
export type StructuredOutput = { readonly param?: string } & (
  | {
      /** A JSON text that validates against a schema (or the text of one); see docs/serving.md for the keywords. */
      readonly kind: "json_schema";
      readonly value: unknown;
    }
  | {
      /** Any JSON object. */
      readonly kind: "json_object";
      readonly value?: null;
    }
  | {
      /** A text that matches a regular expression as a whole. */
      readonly kind: "regex";
      readonly value: string;
    }
  | {
      /** One of some texts. */
      readonly kind: "choice";
      readonly value: readonly string[];
    }
);

/** Bytes of a schema, of a regular expression, or of all choices. */
const MOST_BYTES = 64 * 1024;
/** Compiled forms that are kept. */
const MOST_KEPT = 16;

/** Compiles forms of answers for one tokenizer, and keeps those used last. */
export class Grammars {
  readonly #tokenizer: TokenBytes;
  readonly #vocabSize: number;
  readonly #kept = new Map<string, Grammar>();
  #vocabulary: Vocabulary | null = null;

  /** @param vocabSize tokens that the model knows. */
  constructor(tokenizer: TokenBytes, vocabSize: number) {
    this.#tokenizer = tokenizer;
    this.#vocabSize = vocabSize;
  }

  /**
   * The automaton of a form.
   * @throws RequestError for a form that cannot be understood or fulfilled, or is too large, and for a tokenizer whose
   * answers cannot be bound to a form.
   */
  compile(form: StructuredOutput): Grammar {
    const { param = "structured" } = form;
    const key = JSON.stringify([form.kind, form.value ?? null]);
    if (Buffer.byteLength(key) > MOST_BYTES)
      throw invalid(param, `${param} is larger than ${MOST_BYTES / 1024} KiB`);
    let grammar = this.#kept.get(key);
    if (grammar === undefined) {
      const vocabulary = this.#words(param);
      const automaton = new Automaton(new Effort(param));
      const root = automaton.rule("root", (start, end) => addForm(automaton, form, start, end));
      automaton.finish(root, (byte) => vocabulary.hasByte(byte));
      grammar = new Grammar(automaton, root, vocabulary);
      if (this.#kept.size >= MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    }
    // The last used stays longest.
    this.#kept.delete(key);
    this.#kept.set(key, grammar);
    return grammar;
  }

  #words(param: string): Vocabulary {
    this.#vocabulary ??= new Vocabulary(this.#tokenizer, this.#vocabSize);
    const { eosIds, concatenates } = this.#vocabulary;
    if (eosIds.length === 0) {
      throw invalid(param, `${param} needs an end-of-text token, which this model's tokenizer has not`);
    }
    if (!concatenates) {
      throw invalid(
        param,
        `${param} needs a tokenizer that joins tokens as they are, which this model's does not`,
      );
    }
    return this.#vocabulary;
  }
}

function addForm(automaton: Automaton, form: StructuredOutput, from: number, to: number): void {
  switch (form.kind) {
    case "json_object":
      addAnyObject(automaton, from, to);
      break;
    case "json_schema":
      addSchema(automaton, from, to, form.value);
      break;
    case "regex":
      compileRegex(form.value, true, automaton.effort).lower(automaton, from, to, false);
      break;
    case "choice":
      if (form.value.length === 0) throw automaton.effort.refused("must have at least one choice");
      automaton.texts(from, form.value, to);
      break;
  }
}
