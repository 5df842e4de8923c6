import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import type { Effort } from "./effort.ts";
import type { NumberBounds } from "./numbers.ts";

export type Schema = boolean | { readonly [keyword: string]: unknown };
export type JsonType = "null" | "boolean" | "number" | "integer" | "string" | "array" | "object";

/** A fault of a schema; whoever knows the request's field names it. */
export class SchemaError extends Error {}

/** A schema without combinations: everything that it says must hold. */
export interface Flat {
  /** null: any. */
  readonly types: readonly JsonType[] | null;
  /** Those of `enum` and `const`; null: any. */
  readonly values: readonly unknown[] | null;
  readonly properties: ReadonlyMap<string, Schema>;
  readonly required: readonly string[];
  /** Of properties that are not named; undefined where nothing is said of them. */
  readonly additional: Schema | undefined;
  readonly prefix: readonly Schema[];
  readonly items: Schema | undefined;
  readonly minItems: number;
  readonly maxItems: number;
  readonly minLength: number;
  readonly maxLength: number;
  readonly patterns: readonly string[];
  readonly bounds: NumberBounds;
}

/** What looking at one schema counts for. */
export const STEPS_OF_A_SCHEMA = 20;
const MOST_ALTERNATIVES = 256;
const MOST_NESTED = 32;
/** Each remainder is a state. */
const MOST_DIVISOR = 100;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const schema = z.custom<Schema>((value) => typeof value === "boolean" || isObject(value), "must be a schema");
const schemas = z.array(schema).min(1, "must not be empty");
const type = z.enum(["null", "boolean", "number", "integer", "string", "array", "object"]);
const whole = z.int().min(0, "must be 0 or more");

/** The keywords that are understood. */
const keywords = z
  .object({
    type: z.union(
      [type.transform((one) => [one]), z.array(type).min(1)],
      "must be a type or a list of types",
    ),
    enum: z.array(z.unknown()).min(1, "must not be empty"),
    const: z.unknown(),
    nullable: z.boolean(),
    properties: z.custom<Record<string, Schema>>(
      (value) => isObject(value) && Object.values(value).every((one) => schema.safeParse(one).success),
      "must be an object of schemas",
    ),
    required: z.array(z.string()),
    additionalProperties: schema,
    items: z.union([schema, z.array(schema)], "must be a schema"),
    prefixItems: z.array(schema),
    additionalItems: schema,
    ...{ minItems: whole, maxItems: whole, minLength: whole, maxLength: whole },
    pattern: z.string(),
    format: z.string(),
    ...{
      minimum: z.number(),
      maximum: z.number(),
      exclusiveMinimum: z.number(),
      exclusiveMaximum: z.number(),
    },
    multipleOf: z.number().positive("must be more than 0"),
    ...{ anyOf: schemas, oneOf: schemas, allOf: schemas },
    $ref: z.string(),
  })
  .partial();

/** Keywords that forbid something and are not understood; all others that are unknown say nothing, as JSON Schema wants. */
const UNSUPPORTED = new Set([
  ...[
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
  ],
  ...[
    "propertyNames",
    "minProperties",
    "maxProperties",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
  ],
  ...["unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"],
]);

const DATE =
  "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))";
const TIME = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
const BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";

/** Formats that are written; others say nothing, which JSON Schema allows. */
const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  uuid: "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
  ipv4: `(${BYTE}\\.){3}${BYTE}`,
  email: "[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*@[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\\.[A-Za-z0-9]+)*\\.[A-Za-z]{2,8}",
};

type Keywords = z.infer<typeof keywords>;

/** The keywords of one schema that say something of the value. */
export function keywordsOf(one: Exclude<Schema, boolean>): Keywords {
  const unsupported = Object.keys(one).find((key) => UNSUPPORTED.has(key) && !saysNothing(key, one[key]));
  if (unsupported !== undefined) throw new SchemaError(`the keyword ${unsupported} is not supported`);
  const parsed = keywords.safeParse(one);
  if (parsed.success) return parsed.data;
  const [{ path, message }] = parsed.error.issues;
  throw new SchemaError(`${path.join(".")}: ${message}`);
}

const saysNothing = (key: string, value: unknown) =>
  (key === "uniqueItems" && value === false) || (key === "minProperties" && value === 0);

/** The schema that a reference within the document names. */
export function resolve(root: unknown, ref: string): Schema {
  if (!ref.startsWith("#")) throw new SchemaError(`$ref ${ref} leads out of the schema`);
  let at = root;
  for (const part of decodeURIComponent(ref.slice(1)).split("/").slice(1)) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    at =
      typeof at === "object" && at !== null && Object.hasOwn(at, key)
        ? at[key as keyof typeof at]
        : undefined;
  }
  const found = schema.safeParse(at);
  if (!found.success || (ref !== "#" && !ref.startsWith("#/"))) {
    throw new SchemaError(`$ref ${ref} names no schema in this document`);
  }
  return found.data;
}

/** The alternatives of a schema, each without `$ref`, `allOf`, `anyOf` and `oneOf` of its own. */
export function flatten(one: Schema, root: unknown, effort: Effort, depth = 0): Flat[] {
  effort.spend(STEPS_OF_A_SCHEMA);
  if (one === false) return [];
  if (depth > MOST_NESTED)
    throw new SchemaError(`it combines more than ${MOST_NESTED} schemas in each other`);
  const words = one === true ? {} : keywordsOf(one);
  let flats: (Flat | null)[] = [flatOf(words)];
  const and = (others: readonly Flat[]) => {
    if (flats.length * others.length > MOST_ALTERNATIVES) {
      throw new SchemaError(`its combinations have more than ${MOST_ALTERNATIVES} alternatives`);
    }
    effort.spend(STEPS_OF_A_SCHEMA * flats.length * others.length);
    flats = flats.flatMap((a) => others.map((b) => a && both(a, b))).filter((flat) => flat !== null);
  };
  if (words.$ref !== undefined) and(flatten(resolve(root, words.$ref), root, effort, depth + 1));
  for (const part of words.allOf ?? []) and(flatten(part, root, effort, depth + 1));
  for (const parts of [words.anyOf, words.oneOf]) {
    if (parts !== undefined) and(parts.flatMap((part) => flatten(part, root, effort, depth + 1)));
  }
  return flats.filter((flat) => flat !== null);
}

function flatOf(words: Keywords): Flat {
  const { enum: listed, format, pattern, multipleOf } = words;
  const types = words.type && [...words.type];
  if (words.nullable && types !== undefined) types.push("null");
  const tuple = Array.isArray(words.items) ? words.items : words.prefixItems;
  const only = Object.hasOwn(words, "const") ? [words.const] : null;
  const ends = format === undefined ? undefined : FORMATS[format];
  if (multipleOf !== undefined && !(Number.isInteger(multipleOf) && multipleOf <= MOST_DIVISOR)) {
    throw new SchemaError(`multipleOf must be a whole number up to ${MOST_DIVISOR}`);
  }
  return {
    types: types ?? null,
    values: only === null || listed === undefined ? (only ?? listed ?? null) : common(only, listed),
    properties: new Map(Object.entries(words.properties ?? {})),
    required: words.required ?? [],
    additional: words.additionalProperties,
    prefix: tuple ?? [],
    items: Array.isArray(words.items) ? words.additionalItems : words.items,
    minItems: words.minItems ?? 0,
    maxItems: words.maxItems ?? Infinity,
    minLength: words.minLength ?? 0,
    maxLength: words.maxLength ?? Infinity,
    patterns: [...(pattern === undefined ? [] : [pattern]), ...(ends === undefined ? [] : [`^(${ends})$`])],
    bounds: {
      ...{ minimum: words.minimum, maximum: words.maximum, multipleOf },
      ...{ exclusiveMinimum: words.exclusiveMinimum, exclusiveMaximum: words.exclusiveMaximum },
    },
  };
}

/** What both say, or null where nothing can be both. */
function both(a: Flat, b: Flat): Flat | null {
  const types = a.types === null || b.types === null ? (a.types ?? b.types) : commonTypes(a.types, b.types);
  const values = a.values === null || b.values === null ? (a.values ?? b.values) : common(a.values, b.values);
  if (types?.length === 0 || values?.length === 0) return null;
  const names = new Set([...a.properties.keys(), ...b.properties.keys()]);
  const property = ({ properties, additional }: Flat, name: string) => properties.get(name) ?? additional;
  const item = ({ prefix, items }: Flat, i: number) => prefix[i] ?? items;
  const length = Math.max(a.prefix.length, b.prefix.length);
  return {
    types,
    values,
    properties: new Map([...names].map((name) => [name, all(property(a, name), property(b, name)) ?? true])),
    required: [...new Set([...a.required, ...b.required])],
    additional: all(a.additional, b.additional),
    prefix: Array.from({ length }, (_, i) => all(item(a, i), item(b, i)) ?? true),
    items: all(a.items, b.items),
    minItems: Math.max(a.minItems, b.minItems),
    maxItems: Math.min(a.maxItems, b.maxItems),
    minLength: Math.max(a.minLength, b.minLength),
    maxLength: Math.min(a.maxLength, b.maxLength),
    patterns: [...new Set([...a.patterns, ...b.patterns])],
    bounds: {
      minimum: extreme(Math.max, a.bounds.minimum, b.bounds.minimum),
      exclusiveMinimum: extreme(Math.max, a.bounds.exclusiveMinimum, b.bounds.exclusiveMinimum),
      maximum: extreme(Math.min, a.bounds.maximum, b.bounds.maximum),
      exclusiveMaximum: extreme(Math.min, a.bounds.exclusiveMaximum, b.bounds.exclusiveMaximum),
      multipleOf: extreme(leastCommonMultiple, a.bounds.multipleOf, b.bounds.multipleOf),
    },
  };
}

function all(a: Schema | undefined, b: Schema | undefined): Schema | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  // The same twice, above all the same reference: another schema for it would recur without end.
  if (isDeepStrictEqual(a, b)) return a;
  return { allOf: [a, b] };
}

function extreme(of: (a: number, b: number) => number, a?: number, b?: number): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : of(a, b);
}

function leastCommonMultiple(a: number, b: number): number {
  const divisor = (x: number, y: number): number => (y === 0 ? x : divisor(y, x % y));
  const multiple = (a / divisor(a, b)) * b;
  if (multiple > MOST_DIVISOR) {
    throw new SchemaError(`multipleOf of several schemas comes to more than ${MOST_DIVISOR}`);
  }
  return multiple;
}

function common(a: readonly unknown[], b: readonly unknown[]): unknown[] {
  return a.filter((value) => b.some((other) => isDeepStrictEqual(value, other)));
}

function commonTypes(a: readonly JsonType[], b: readonly JsonType[]): JsonType[] {
  const within = (types: readonly JsonType[], one: JsonType) =>
    types.includes(one) || (one === "integer" && types.includes("number"));
  return [...new Set([...a.filter((one) => within(b, one)), ...b.filter((one) => within(a, one))])];
}
