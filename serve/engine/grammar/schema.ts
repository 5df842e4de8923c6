import type { Automaton } from "./automaton.ts";
import { ANY, CharAutomaton, complement, counted } from "./chars.ts";
import type { Effort } from "./effort.ts";
import {
  type Flat,
  flatten,
  type JsonType,
  keywordsOf,
  resolve,
  type Schema,
  SchemaError,
  STEPS_OF_A_SCHEMA,
} from "./flat.ts";
import { addAny, addAnyObject, addColon, addComma, addList, addSpace, addString } from "./json.ts";
import { addNumber } from "./numbers.ts";
import { compileRegex } from "./regex.ts";

const MOST_NESTED = 32;

/**
 * Adds the JSON texts that a schema allows: what is written validates, but not all that validates can be written.
 * Properties come in the order of the schema, and only those it names unless `additionalProperties` says otherwise; numbers
 * have at most 15 digits; `oneOf` is read as `anyOf`.
 * @throws RequestError for a keyword that would have to be ignored, and for a schema that is none.
 */
export function addSchema(automaton: Automaton, from: number, to: number, schema: unknown): void {
  let root = schema;
  try {
    if (typeof schema === "string") root = JSON.parse(schema);
  } catch {
    throw automaton.effort.refused("is not JSON");
  }
  if (typeof root !== "boolean" && (typeof root !== "object" || root === null || Array.isArray(root))) {
    throw automaton.effort.refused("must be a JSON Schema: an object, true or false");
  }
  new Writer(automaton, root as Schema).add(root as Schema, from, to, 0);
}

class Writer {
  readonly #automaton: Automaton;
  readonly #root: Schema;

  constructor(automaton: Automaton, root: Schema) {
    this.#automaton = automaton;
    this.#root = root;
  }

  /** @param depth schemas around this one. */
  add(schema: Schema, from: number, to: number, depth: number): void {
    if (depth > MOST_NESTED)
      throw this.#automaton.effort.refused(`has more than ${MOST_NESTED} schemas in each other`);
    this.#automaton.effort.spend(STEPS_OF_A_SCHEMA);
    try {
      this.#add(schema, from, to, depth);
    } catch (error) {
      throw error instanceof SchemaError
        ? this.#automaton.effort.refused(`is no schema that is supported: ${error.message}`)
        : error;
    }
  }

  #add(schema: Schema, from: number, to: number, depth: number): void {
    if (typeof schema === "boolean") {
      if (schema) addAny(this.#automaton, from, to);
      return;
    }
    const words = keywordsOf(schema);
    const only = Object.keys(words).length === 1;
    const either = words.anyOf ?? words.oneOf;
    if (only && words.$ref !== undefined) {
      const target = resolve(this.#root, words.$ref);
      this.#call(target, from, to, 0);
    } else if (only && either !== undefined) {
      for (const one of either) this.add(one, from, to, depth + 1);
    } else {
      for (const flat of flatten(schema, this.#root, this.#automaton.effort))
        this.#addFlat(flat, from, to, depth);
    }
  }

  /** As `add`, in a rule that all calls of the same schema share. */
  #call(schema: Schema, from: number, to: number, depth: number): void {
    this.#automaton.call(from, schema, (start, end) => this.add(schema, start, end, depth), to);
  }

  #addFlat(flat: Flat, from: number, to: number, depth: number): void {
    if (flat.values !== null) {
      this.#addValues(flat, from, to);
      return;
    }
    const types = flat.types ?? implied(flat);
    if (types.length === 0) addAny(this.#automaton, from, to);
    for (const type of new Set(types)) {
      if (type === "integer" && types.includes("number")) continue;
      this.#addType(type, flat, from, to, depth);
    }
  }

  #addValues(flat: Flat, from: number, to: number): void {
    const limited = implied(flat);
    const values = flat.values!.filter(
      (value) => flat.types === null || flat.types.some((type) => isOf(value, type)),
    );
    if (values.some((value) => limited.some((type) => isOf(value, type)))) {
      throw new SchemaError("enum and const cannot stand beside keywords that limit their values");
    }
    this.#automaton.texts(
      from,
      values.map((value) => JSON.stringify(value)),
      to,
    );
  }

  #addType(type: JsonType, flat: Flat, from: number, to: number, depth: number): void {
    switch (type) {
      case "null":
        this.#automaton.text(from, "null", to);
        break;
      case "boolean":
        this.#automaton.texts(from, ["true", "false"], to);
        break;
      case "integer":
      case "number":
        if (flat.bounds.multipleOf !== undefined && type === "number") type = "integer";
        addNumber(this.#automaton, from, to, { ...flat.bounds, integer: type === "integer" });
        break;
      case "string":
        this.#addString(flat, from, to);
        break;
      case "array":
        this.#addArray(flat, from, to, depth);
        break;
      case "object":
        this.#addObject(flat, from, to, depth);
        break;
    }
  }

  #addString({ patterns, minLength, maxLength }: Flat, from: number, to: number): void {
    const automaton = this.#automaton;
    if (minLength > maxLength) return;
    if (patterns.length === 0) {
      addString(automaton, from, to, minLength, maxLength);
      return;
    }
    const write = (start: number, end: number) => {
      const parts = patterns.map((pattern) => compileRegex(pattern, false, automaton.effort));
      if (minLength > 0 || maxLength < Infinity) parts.push(counted(automaton.effort, minLength, maxLength));
      const [opened, closing] = [automaton.node(), automaton.node()];
      automaton.text(start, '"', opened);
      parts.reduce((a, b) => a.and(b)).lower(automaton, opened, closing, true);
      automaton.text(closing, '"', end);
    };
    automaton.call(from, `string ${JSON.stringify([patterns, minLength, maxLength])}`, write, to);
  }

  /** A tuple's items are all written, and more only where `items` or `minItems` wants them. */
  #addArray({ prefix, items, minItems, maxItems }: Flat, from: number, to: number, depth: number): void {
    const least = Math.min(Math.max(minItems, prefix.length), Math.max(minItems, maxItems));
    const open =
      items === undefined && prefix.length > 0 ? least : items === false ? prefix.length : Infinity;
    const max = Math.min(maxItems, open);
    if (least > max) return;
    const more = items ?? true;
    addList(this.#automaton, from, to, {
      ...{ open: "[", close: "]", min: least, max },
      item: (start, end, i) => this.#call(prefix[i] ?? more, start, end, depth + 1),
    });
  }

  #addObject(flat: Flat, from: number, to: number, depth: number): void {
    const automaton = this.#automaton;
    const { required, additional } = flat;
    const properties = new Map(flat.properties);
    for (const name of required) if (!properties.has(name)) properties.set(name, additional ?? true);
    if (properties.size === 0 && (additional === undefined || additional === true)) {
      addAnyObject(automaton, from, to);
      return;
    }
    const [opened, closing, fresh] = [automaton.node(), automaton.node(), automaton.node()];
    automaton.text(from, "{", opened);
    automaton.text(closing, "}", to);
    addSpace(automaton, opened, fresh);
    // Where the next member may come as the first one, and where after another.
    let first: number | null = fresh;
    let later: number | null = null;
    const member = (begin: number, done: number, name: string | null, schema: Schema) => {
      const [key, value] = [automaton.node(), automaton.node()];
      if (name === null) this.#addOtherKey([...properties.keys()], begin, key);
      else automaton.text(begin, JSON.stringify(name), key);
      addColon(automaton, key, value);
      if (name === null) this.#call(schema, value, done, depth + 1);
      else this.add(schema, value, done, depth + 1);
    };
    const place = (optional: boolean, add: (begin: number, done: number) => void) => {
      const [begin, done] = [automaton.node(), automaton.node()];
      if (first !== null) automaton.skip(first, begin);
      if (later !== null) addComma(automaton, later, begin);
      add(begin, done);
      if (later !== null && optional) automaton.skip(later, done);
      later = done;
      if (!optional) first = null;
      return [begin, done];
    };
    for (const [name, schema] of properties) {
      place(!required.includes(name), (begin, done) => member(begin, done, name, schema));
    }
    if (additional !== undefined && additional !== false) {
      const [begin, done] = place(true, (start, end) => member(start, end, null, additional));
      addComma(automaton, done, begin);
    }
    if (first !== null) automaton.skip(opened, closing);
    if (later !== null) addSpace(automaton, later, closing);
  }

  /** A key that is none of `names`. */
  #addOtherKey(names: readonly string[], from: number, to: number): void {
    const automaton = this.#automaton;
    const write = (start: number, end: number) => {
      const [opened, closing] = [automaton.node(), automaton.node()];
      automaton.text(start, '"', opened);
      noneOf(names, automaton.effort).lower(automaton, opened, closing, true);
      automaton.text(closing, '"', end);
    };
    automaton.call(from, `key not of ${JSON.stringify(names)}`, write, to);
  }
}

/** The types whose keywords are there. */
function implied(flat: Flat): JsonType[] {
  const { properties, required, additional, prefix, items, bounds } = flat;
  const types: JsonType[] = [];
  if (properties.size > 0 || required.length > 0 || additional !== undefined) types.push("object");
  if (prefix.length > 0 || items !== undefined || flat.minItems > 0 || flat.maxItems < Infinity)
    types.push("array");
  if (flat.minLength > 0 || flat.maxLength < Infinity || flat.patterns.length > 0) types.push("string");
  if (Object.values(bounds).some((bound) => bound !== undefined)) types.push("number");
  return types;
}

function isOf(value: unknown, type: JsonType): boolean {
  if (value === null) return type === "null";
  if (Array.isArray(value)) return type === "array";
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

/** All texts but some. */
function noneOf(names: readonly string[], effort: Effort): CharAutomaton {
  const automaton = new CharAutomaton(effort);
  const other = automaton.node();
  automaton.edge(other, ANY, other);
  automaton.skip(other, 1);
  const open = [
    { from: 0, at: 0, group: names.map((name) => Array.from(name, (char) => char.codePointAt(0)!)) },
  ];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { from, at, group } = next;
    const below = new Map<number, number[][]>();
    for (const name of group.filter(({ length }) => length > at)) {
      const known = below.get(name[at]);
      if (known === undefined) below.set(name[at], [name]);
      else known.push(name);
    }
    if (group.every(({ length }) => length > at)) automaton.skip(from, 1);
    const codes = [...below.keys()].sort((a, b) => a - b);
    automaton.edge(from, complement(codes.map((code) => [code, code])), other);
    for (const [code, group] of below) {
      const to = automaton.node();
      automaton.edge(from, [[code, code]], to);
      open.push({ from: to, at: at + 1, group });
    }
  }
  return automaton;
}
