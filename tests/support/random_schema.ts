import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { RequestError } from "../../serve/engine/errors.ts";
import { Grammars, type StructuredOutput } from "../../serve/engine/grammar/index.ts";
import { sampleRow } from "../../serve/engine/sampler.ts";
import { GREEDY } from "../serve_fake.ts";

/** Tokens: every byte, pieces of JSON that straddle its parts, parts of characters; then one without text, and the end. */
const PIECES = [
  '{"',
  '":',
  '": "',
  '", "',
  '"}',
  '"]',
  "[{",
  "}]",
  "}, {",
  "true",
  "fal",
  "se,",
  "null",
  "12",
  "0.",
  "-1",
  "e+",
];
const MORE = [
  "\n  ",
  "\n\t",
  " ",
  '\\"',
  "\\u00",
  "é",
  "🙂",
  "aé",
  "abc",
  "name",
  '"name',
  "://",
  "2024-0",
  ", ",
  ",\n",
  '""',
  "[]",
];
export const encoder = new TextEncoder();
export const TOKENS = [
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  ...[...PIECES, ...MORE].map((text) => encoder.encode(text)),
  ...[Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x99, 0x82, 0x22), new Uint8Array(0), new Uint8Array(0)],
];
const EOS = TOKENS.length - 1;

export function tokenizerOf(tokens: readonly Uint8Array[], eosIds = [tokens.length - 1]) {
  return {
    vocabSize: tokens.length,
    eosIds,
    idToBytes: (id: number) => tokens[id],
    isSpecial: (id: number) => eosIds.includes(id),
    streamDecoder: () => ({
      push: (id: number) => Buffer.from(tokens[id]).toString("latin1"),
      flush: () => "",
    }),
  };
}

export const grammars = new Grammars(tokenizerOf(TOKENS), TOKENS.length + 3);
export const json = (value: unknown): StructuredOutput => ({ kind: "json_schema", value });

/** Numbers from a seed. */
function noise(seed: number) {
  let state = seed | 1;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export const allows = (mask: Uint32Array, id: number) => ((mask[id >>> 5] >>> (id & 31)) & 1) === 1;

/**
 * What a model of random logits writes, or null where it does not end in time. At each step something must be allowed, and
 * the end exactly where the text so far has the form.
 */
export function write(form: StructuredOutput, seed: number, most = 80): string | null {
  const grammar = grammars.compile(form);
  const constraint = grammar.matcher();
  const random = noise(seed);
  const logits = new Float32Array(TOKENS.length + 3);
  const history = [7, 8];
  const bytes: number[] = [];
  for (let i = 0; i < most; i++) {
    const mask = constraint.allowed(history, 2);
    const text = Uint8Array.from(bytes);
    if (!mask.some((word) => word !== 0)) throw new Error(`nothing may follow ${decode(text)}`);
    if (allows(mask, EOS) !== grammar.matches(text)) throw new Error(`ends not as it may: ${decode(text)}`);
    // What the form forbids is what the model wants most; it closes sooner than it opens, so that most texts end.
    logits.forEach((_, id) => {
      logits[id] = random() * 6 + (allows(mask, id) ? 0 : 20);
    });
    for (const id of [0x22, 0x7d, 0x5d, EOS]) logits[id] += 2;
    const params = { ...GREEDY, temperature: 1, seed: [seed, i] as const };
    const rest = {
      history,
      promptLength: 2,
      position: history.length,
      banned: null,
      constraint,
      topLogprobs: null,
    };
    const { id } = sampleRow(logits, { params, ...rest });
    if (id === EOS) return decode(text);
    history.push(id);
    bytes.push(...TOKENS[id]);
  }
  return null;
}

const decode = (bytes: Uint8Array) =>
  new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);

export const ajv = new Ajv2020({ strict: false, validateFormats: false });
/** As the subset reads it. */
const asRead = (schema: unknown) => JSON.parse(JSON.stringify(schema).replaceAll('"oneOf"', '"anyOf"'));

const names = fc.constantFrom("a", "b", "name", "é", 'q"', "a b");
const count = fc.integer({ min: 0, max: 4 });
const range = fc.tuple(count, count).map(([a, b]) => [Math.min(a, b), Math.max(a, b)]);
const bound = fc.oneof(
  fc.integer({ min: -1200, max: 1200 }),
  fc.constantFrom(0, 0.5, -0.25, 99.95, 1e-3, -7.125),
);
const bounds = fc.tuple(bound, bound).map(([a, b]) => [Math.min(a, b), Math.max(a, b) + 1]);
const value = fc.oneof(
  fc.string({ maxLength: 5 }),
  fc.integer(),
  fc.constantFrom(null, true, 1.5, [1, "x"], { k: [] }),
);
const patterns = fc.constantFrom(
  "^[a-z]+$",
  "^\\d{2}-\\d{2}$",
  "b|c",
  '^"q\\\\"$',
  "^[^a]{1,3}$",
  "é$",
  "^(ab|cd)*$",
  "^\\s?x",
);

const { schema } = fc.letrec<{ schema: unknown }>((tie) => {
  const sub = tie("schema");
  const optional = <T>(arb: fc.Arbitrary<T>) => fc.option(arb, { nil: undefined });
  const object = fc
    .record({
      properties: fc.dictionary(names, sub, { maxKeys: 3 }),
      required: fc.uniqueArray(names, { maxLength: 2 }),
      additionalProperties: optional(fc.oneof(fc.boolean(), sub)),
    })
    .map((words) => ({ type: "object", ...words }));
  const array = fc
    .record({
      items: optional(sub),
      prefixItems: optional(fc.array(sub, { minLength: 1, maxLength: 2 })),
      range,
    })
    .map(({ range: [minItems, maxItems], ...words }) => ({ type: "array", ...words, minItems, maxItems }));
  return {
    schema: fc.oneof(
      { maxDepth: 4, depthSize: "small" },
      fc.record({
        type: fc.constantFrom("integer", "number", "boolean", "null", "string", ["string", "null"]),
      }),
      fc
        .tuple(fc.constantFrom("integer", "number"), bounds)
        .map(([type, [minimum, maximum]]) => ({ type, minimum, maximum })),
      bounds.map(([exclusiveMinimum, exclusiveMaximum]) => ({
        type: "number",
        exclusiveMinimum,
        exclusiveMaximum,
      })),
      fc
        .integer({ min: 1, max: 40 })
        .map((multipleOf) => ({ type: "integer", multipleOf, minimum: -500, maximum: 99999 })),
      range.map(([minLength, maxLength]) => ({ type: "string", minLength, maxLength })),
      fc.record({ type: fc.constant("string"), pattern: patterns }),
      fc
        .tuple(patterns, range)
        .map(([pattern, [minLength, maxLength]]) => ({ type: "string", pattern, minLength, maxLength })),
      fc.record({ enum: fc.array(value, { minLength: 1, maxLength: 3 }) }),
      fc.record({ const: value }),
      fc.constantFrom({ type: "string", format: "date" }, { $ref: "#/$defs/tree" }, {}, true),
      object,
      array,
      fc.record({ anyOf: fc.array(sub, { minLength: 1, maxLength: 3 }) }),
      fc.record({ oneOf: fc.array(sub, { minLength: 1, maxLength: 2 }), description: fc.constant("said") }),
      fc.tuple(object, object).map((allOf) => ({ allOf })),
      fc
        .tuple(object, fc.array(object, { minLength: 1, maxLength: 2 }))
        .map(([one, anyOf]) => ({ ...one, anyOf })),
    ),
  };
});
const tree = {
  type: "object",
  properties: { v: { type: "integer" }, kids: { type: "array", items: { $ref: "#/$defs/tree" } } },
};

/** Lets random logits answer random schemas; throws where an answer that ends does not validate. */
export function checkSchemas(runs: number) {
  let [written, refused] = [0, 0];
  fc.assert(
    fc.property(schema, fc.nat(), (one, seed) => {
      const whole = typeof one === "object" ? { ...one, $defs: { tree } } : one;
      let text: string | null;
      try {
        text = write(json(whole), seed);
      } catch (error) {
        // Some contradict themselves.
        if (!(error instanceof RequestError)) throw error;
        if (!/cannot be fulfilled|beside keywords|multipleOf of several/.test(error.message)) throw error;
        refused++;
        return;
      }
      if (text === null) return;
      written++;
      const valid = ajv.validate(asRead(whole) as object, JSON.parse(text));
      if (!valid) throw new Error(`${text} does not validate: ${ajv.errorsText()}`);
    }),
    { numRuns: runs },
  );
  return { written, refused };
}
