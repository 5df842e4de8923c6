import type { z } from "zod";
import { KilnError, nearestName } from "../../core/errors.ts";

/** Where a value came from, for messages: `file.yaml:12`, `--set train.steps`, `config.json`. */
export type Origin = (path: readonly PropertyKey[]) => string;

/** The error of settings, or of a config.json, that cannot be used. */
export const configError = (message: string) => new KilnError(message, { code: "config_invalid" });

/** A value as a message shows it: JSON, cut at 60 characters. */
function shown(value: unknown): string {
  const text = value === undefined ? "nothing" : (JSON.stringify(value) ?? String(value));
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (inner as Record<PropertyKey, unknown> | null | undefined)?.[key],
    value,
  );
}

function dotted(path: readonly PropertyKey[]): string {
  return path.map(String).join(".");
}

/** Types of values in words; another is `a` with its name. */
const typeNames: Record<string, string> = {
  int: "a whole number",
  object: "a group of keys",
  array: "a list",
  null: "null",
};
/** What a size counts. */
const units: Record<string, string> = { array: " entries", string: " characters" };

/** What a zod issue expected, in words. */
function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return `expected ${typeNames[issue.expected] ?? `a ${issue.expected}`}`;
    case "invalid_value":
      return `expected ${issue.values.map((value) => shown(value)).join(" or ")}`;
    case "too_small":
      return `expected ${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}${units[issue.origin] ?? ""}`;
    case "too_big":
      return `expected ${issue.inclusive === false ? "less than" : "at most"} ${issue.maximum}${units[issue.origin] ?? ""}`;
    case "invalid_union":
      if ("options" in issue) return `expected ${(issue.options as unknown[]).join(" or ")}`;
      return `expected ${[...new Set(issue.errors.flat().map(expectation))].join(" or ").replaceAll("or expected ", "or ")}`;
    default:
      return issue.message;
  }
}

/** The valid keys of the object at `path` in a schema, for "did you mean". */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[], value: unknown): string[] {
  const shape = shapeOf(schema, value) ?? {};
  const [key, ...rest] = path;
  if (key === undefined) return Object.keys(shape);
  // Groups under names of the user's, and lists of groups, have one schema for all.
  const { valueType, element } = unwrap(schema).def as { valueType?: z.ZodType; element?: z.ZodType };
  const inner = shape[key as string] ?? valueType ?? element;
  return inner === undefined ? [] : keysAt(inner, rest, at(value, [key]));
}

/** A group of keys that is one of several, told apart by its `name`. */
export type Option = z.ZodType & { shape: Record<string, z.ZodType> };

/** The alternatives of a group whose `name` decides which other keys it has; null for another schema. */
export function optionsOf(schema: z.ZodType): readonly Option[] | null {
  const { options = [] } = unwrap(schema) as { options?: readonly Option[] };
  return options.length > 0 && options.every(({ shape }) => shape?.name) ? options : null;
}

/**
 * The keys of a group in a schema; where its `name` decides them, those for the name in `value`, else those of the first
 * alternative.
 */
export function shapeOf(schema: z.ZodType, value?: unknown): Record<string, z.ZodType> | undefined {
  const options = optionsOf(schema);
  const name = (value as { name?: unknown } | null | undefined)?.name;
  const option = options?.find(({ shape }) => shape.name.safeParse(name).success) ?? options?.[0];
  return option?.shape ?? (unwrap(schema) as { shape?: Record<string, z.ZodType> }).shape;
}

/** Peels defaults, optionals and preprocessing off a schema. */
function unwrap(schema: z.ZodType): z.ZodType {
  const definition = schema.def as { innerType?: z.ZodType; out?: z.ZodType; type: string };
  if (definition.innerType !== undefined) return unwrap(definition.innerType);
  return definition.type === "pipe" && definition.out !== undefined ? unwrap(definition.out) : schema;
}

/**
 * Checks `value` against a schema. The first problem becomes one KilnError line with the origin, the dotted path, the value
 * found and what was expected; an unknown key names the nearest valid one.
 */
export function parseWith<T extends z.ZodType>(schema: T, value: unknown, origin: Origin): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { issues } = result.error;
  // A key that is missing may be the one that is misspelt.
  const issue = issues.find(({ code }) => code === "unrecognized_keys") ?? issues[0];
  if (issue.code === "unrecognized_keys") {
    const path = [...issue.path, issue.keys[0]];
    const names = keysAt(schema, issue.path, value);
    const near = nearestName(issue.keys[0], names);
    const hint =
      near === null
        ? `valid names are ${names.join(", ")}`
        : `did you mean ${dotted([...issue.path, near])}?`;
    throw configError(`${origin(path)}: unknown key ${dotted(path)}; ${hint}`);
  }
  const found = at(value, issue.path);
  const what = issue.path.length === 0 ? "the whole" : dotted(issue.path);
  // A check across keys has its own message; the path only says where it is reported.
  const text =
    issue.code === "custom"
      ? `${what}: ${issue.message}`
      : `${what} is ${shown(found)}; ${expectation(issue)}`;
  throw configError(`${origin(issue.path)}: ${text}`);
}
