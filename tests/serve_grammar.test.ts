import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Grammars, type StructuredOutput } from "../serve/engine/grammar/index.ts";
import {
  ajv,
  allows,
  checkSchemas,
  encoder,
  grammars,
  json,
  TOKENS,
  tokenizerOf,
  write,
} from "./support/random_schema.ts";

describe("a JSON Schema", () => {
  it("is fulfilled by every answer that ends, whatever the model wants", () => {
    const { written, refused } = checkSchemas(150);
    expect(refused).toBeLessThan(45);
    expect(written).toBeGreaterThan(60);
  });

  const person = {
    type: "object",
    properties: { name: { type: "string", minLength: 1 }, age: { type: "integer", minimum: 0 } },
    required: ["name"],
  };
  const list = {
    $ref: "#/$defs/list",
    $defs: { list: { type: "array", items: { $ref: "#/$defs/list" }, maxItems: 2 } },
  };

  it.each<[string, unknown, string[], string[]]>([
    [
      "properties in their order, optional ones left out",
      person,
      ['{"name":"x"}', '{"name": "é\\n\\u00e9", "age": 0}', '{\n  "name": "x",\n  "age": 12\n}'],
      [
        '{"age": 1,"name":"x"}',
        '{"name":""}',
        '{"name":"x","age":-1}',
        '{"name":"x","b":1}',
        '{"name" :"x"}',
        "{}",
      ],
    ],
    [
      "other properties, under no name that is taken",
      { ...person, additionalProperties: { type: "null" } },
      ['{"name":"x","b":null,"c":null}', '{"name":"x","nam":null,"names":null,"":null}'],
      [
        '{"name":"x","b":1}',
        '{"name":"x","name":null}',
        '{"name":"x","age":null}',
        '{"name":"x","a\\u0067e":null}',
      ],
    ],
    ["recursion", list, ["[]", "[[],[[]]]"], ["[[[],[],[]]]", "[", "[[]"]],
    ["tuples", { prefixItems: [{ const: 1 }, {}], items: false }, ["[1,[]]"], ["[1]", "[2,1]", "[1,2,3]"]],
    [
      "tuples of older drafts",
      { items: [{ const: 1 }], additionalItems: { type: "null" } },
      ["[1]", "[1,null]"],
      ["[]"],
    ],
    [
      "bounds",
      { type: "number", exclusiveMinimum: -0.5, maximum: 12 },
      ["-0.49", "12.00", "0"],
      ["-0.5", "12.01", "13"],
    ],
    ["multiples", { type: "integer", multipleOf: 7 }, ["0", "-14", "700"], ["1", "-0", "15"]],
    ["nullable", { type: "string", nullable: true }, ["null", '"a"'], ["1"]],
    ["limited white space", {}, ["[\n                    1]", "[ 1]"], ["[  1]", "[\n\n1]", " 1", "1 "]],
    ["true and several types", { type: ["integer", "boolean"] }, ["1", "true"], ["1.5", "null"]],
    ["formats", { type: "string", format: "date" }, ['"2024-12-31"'], ['"2024-02-30"', '"24-1-1"']],
    [
      "lengths in characters",
      { type: "string", maxLength: 2 },
      ['"🙂\\n"', '"\\u00e9"'],
      ['"abc"', '"\\ud83d"'],
    ],
    [
      "allOf",
      { allOf: [{ type: ["integer", "string"] }, { type: "number", minimum: 3 }] },
      ["3"],
      ["2", '"a"', "3.5"],
    ],
    [
      "anyOf beside more",
      { ...person, anyOf: [{ required: ["age"] }] },
      ['{"name":"x","age":1}'],
      ['{"name":"x"}'],
    ],
    ["pointers", { $ref: "#/a~1b/c%20d", "a/b": { "c d": { const: "é" } } }, ['"é"'], ['"e"']],
  ])("means %s", (_name, one, fits, unfit) => {
    const grammar = grammars.compile(json(one));
    expect(fits.filter((text) => !grammar.matches(text))).toEqual([]);
    expect(unfit.filter((text) => grammar.matches(text))).toEqual([]);
  });
});

describe("a regular expression", () => {
  const atoms = fc.constantFrom(
    "a",
    "b",
    ".",
    "\\d",
    "\\w",
    "[^a]",
    "[a-cé]",
    "\\s",
    "é",
    "🙂",
    "\\x41",
    "\\u{1F642}",
    "\\.",
    "[\\w-]",
  );
  const quantifiers = fc.constantFrom("", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}");
  const { regex } = fc.letrec<{ regex: string }>((tie) => ({
    regex: fc.oneof(
      { maxDepth: 4 },
      fc.tuple(atoms, quantifiers).map((parts) => parts.join("")),
      fc.tuple(tie("regex"), tie("regex")).map((parts) => parts.join("")),
      fc.tuple(tie("regex"), tie("regex")).map((parts) => parts.join("|")),
      fc
        .tuple(fc.constantFrom("(", "(?:", "(?<n>"), tie("regex"), quantifiers)
        .map(([open, inner, quantifier]) => {
          return `${open.replace("n", `n${Math.floor(inner.length)}`)}${inner})${quantifier}`;
        }),
    ),
  }));
  const texts = fc.array(fc.constantFrom("a", "b", "c", "é", "🙂", "1", "A", " ", "\n", ".", "-", "_"), {
    maxLength: 5,
  });

  it("means what it means in JavaScript, of the whole text and of a part", () => {
    fc.assert(
      fc.property(
        regex,
        fc.array(texts, { minLength: 8, maxLength: 8 }),
        fc.nat(),
        (source, samples, seed) => {
          const unnamed = source.replaceAll(/\?<n\d+>/g, "");
          const [whole, part] = [new RegExp(`^(?:${unnamed})$`, "u"), new RegExp(unnamed, "u")];
          const written = write({ kind: "regex", value: source }, seed, 40);
          if (written !== null && !whole.test(written))
            throw new Error(`${source} does not match ${written}`);
          const grammar = grammars.compile({ kind: "regex", value: source });
          const within = grammars.compile(json({ type: "string", pattern: source }));
          for (const sample of samples.map((chars) => chars.join(""))) {
            expect([source, sample, grammar.matches(sample)]).toEqual([source, sample, whole.test(sample)]);
            const quoted = JSON.stringify(sample);
            expect([source, quoted, within.matches(quoted)]).toEqual([source, quoted, part.test(sample)]);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each(["^a|b$", "^(a|b)$", "(^a$)|b", "^", "$", "^$", "", "a|", "[]|a", "[^]b"])(
    "reads anchors as JavaScript: %j",
    (source) => {
      const within = grammars.compile(json({ type: "string", pattern: source }));
      for (const text of ["", "a", "b", "ab", "ba", "xa", "bx", "xax"]) {
        expect([text, within.matches(JSON.stringify(text))]).toEqual([
          text,
          new RegExp(source, "u").test(text),
        ]);
      }
    },
  );
});

const many = <T>(count: number, of: (i: number) => T) => Array.from({ length: count }, (_, i) => of(i));
const nested = (depth: number): unknown => (depth === 0 ? {} : { type: "array", items: nested(depth - 1) });
const doubling = Object.fromEntries(
  many(14, (i) => [`d${i}`, { allOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}` }] }]),
);

describe("a form that would cost too much", () => {
  it.each<[string, StructuredOutput, RegExp]>([
    ["nested quantifiers", { kind: "regex", value: "(((a{1,50}){1,50}){1,50}){1,50}" }, /too complex/],
    ["repetitions of nothing", { kind: "regex", value: "((){9999}){9999}" }, /too complex/],
    ["groups without end", { kind: "regex", value: "(".repeat(60_000) }, /64 groups/],
    ["10,000 alternatives", { kind: "choice", value: many(10_000, (i) => `${i}`) }, /states|64 KiB/],
    ["a long choice", { kind: "choice", value: ["x".repeat(60_000)] }, /10000 states/],
    ["a large schema", json({ enum: many(20_000, String) }), /64 KiB/],
    ["many values", json({ enum: many(9_000, (i) => i * 7) }), /10000 states/],
    ["references that double", json({ ...doubling.d0, $defs: { ...doubling, d14: {} } }), /too complex/],
    [
      "combinations that multiply",
      json({ allOf: many(6, () => ({ anyOf: many(4, (i) => ({ minLength: i })) })) }),
      /256 alt/,
    ],
    [
      "many bounded numbers",
      json({ properties: Object.fromEntries(many(900, (i) => [`p${i}`, { maximum: i / 8 }])) }),
      /states|complex/,
    ],
    [
      "a large pattern of a long text",
      json({ type: "string", pattern: "^(a|b|[^c-z]x)*$", maxLength: 3000 }),
      /complex|states/,
    ],
    ["nesting", json(nested(40)), /more than 32/],
  ])("F13: is refused: %s", (_name, form, message) => {
    expect(() => grammars.compile(form)).toThrow(message);
  });

  it("keeps the ways it follows few, and what it writes valid", () => {
    const choice = (i: number) => ({
      type: "object",
      properties: { x: { anyOf: [{ $ref: "#/$defs/a" }, { type: "null" }] }, [`y${i}`]: { type: "integer" } },
      required: ["x"],
    });
    const ambiguous = { $ref: "#/$defs/a", $defs: { a: { anyOf: many(30, choice) } } };
    const texts = many(6, (seed) => write(json(ambiguous), seed, 60)).filter((text) => text !== null);
    expect(texts.length).toBeGreaterThan(1);
    for (const text of texts) expect([text, ajv.validate(ambiguous, JSON.parse(text))]).toEqual([text, true]);
  });

  it("does not allow other tokens after other requests", () => {
    const form = json({ anyOf: many(12, (i) => ({ type: "string", pattern: `a.{${i}}b`, maxLength: 20 })) });
    const alone = new Grammars(tokenizerOf(TOKENS), TOKENS.length).compile(form);
    const before = new Grammars(tokenizerOf(TOKENS), TOKENS.length).compile(form);
    for (const text of ['"bbbba', '"aaaa', '"éaéb']) before.matches(text);
    const history = [...'"abab'].map((char) => char.charCodeAt(0));
    for (let length = 0; length <= history.length; length++) {
      const prefix = history.slice(0, length);
      expect(before.matcher().allowed(prefix, 0)).toEqual(alone.matcher().allowed(prefix, 0));
    }
  });
});

describe("a tokenizer", () => {
  const tokens = [..."abc{}"].map((char) => encoder.encode(char));
  const form: StructuredOutput = { kind: "choice", value: ["abc", "abd", "é"] };

  it("that lacks bytes never begins what it cannot end", () => {
    const few = new Grammars(
      tokenizerOf([...tokens, encoder.encode("é"), encoder.encode("abd"), new Uint8Array(0)]),
      8,
    );
    const constraint = few.compile(form).matcher();
    expect(constraint.allowed([], 0)).toEqual(Uint32Array.of(0b1));
    expect(constraint.allowed([0, 1], 0)).toEqual(Uint32Array.of(0b100));
    expect(constraint.allowed([0, 1, 2], 0)).toEqual(Uint32Array.of(0b10000000));
    expect(() => few.compile({ kind: "choice", value: ["d"] })).toThrow("cannot be fulfilled");
  });

  it("without an end of text, or that puts spaces between words, is refused", () => {
    expect(() => new Grammars(tokenizerOf(tokens, []), 5).compile(form)).toThrow("end-of-text token");
    const words = {
      ...tokenizerOf(tokens),
      streamDecoder: () => ({ push: (id: number) => ` ${id}`, flush: () => "" }),
    };
    expect(() => new Grammars(words, 5).compile(form)).toThrow("joins tokens");
  });

  it("may take a step back: a constraint follows the history that it is given", () => {
    const constraint = grammars.compile({ kind: "choice", value: ["abc", "xyz"] }).matcher();
    const [a, b, x] = [..."abx"].map((char) => char.charCodeAt(0));
    const first = constraint.allowed([1, a, b], 1);
    expect(allows(constraint.allowed([1], 1), x)).toBe(true);
    expect(constraint.allowed([1, a, b], 1)).toEqual(first);
  });
});
