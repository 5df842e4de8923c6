import type { z } from "zod";

type Issue = z.core.$ZodIssue;
type RawIssue = z.core.$ZodRawIssue;

/** What zod expects, as a person calls it. */
const KINDS: Readonly<Record<string, string>> = {
  string: "a text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  object: "an object",
  record: "an object",
  array: "a list",
};

/** What is wrong with the value of a field, to stand after its name; undefined leaves zod's own words. */
export function inWords(issue: RawIssue): string | undefined {
  const { input } = issue;
  const isMissing = input === undefined && issue.code !== "unrecognized_keys";
  switch (issue.code) {
    case "invalid_type":
      return isMissing
        ? "is missing"
        : `must be ${KINDS[issue.expected as string] ?? issue.expected}, not ${kindOf(input)}`;
    case "invalid_value":
      return isMissing ? "is missing" : `must be ${oneOf(issue.values as readonly unknown[])}`;
    case "invalid_union":
      return Array.isArray(issue.options) ? `must be ${oneOf(issue.options)}` : undefined;
    case "too_small":
      return least(issue.origin as string, Number(issue.minimum));
    case "too_big":
      return most(issue.origin as string, Number(issue.maximum));
    case "unrecognized_keys": {
      const keys = issue.keys as readonly string[];
      return `has no field ${keys.map((key) => key.slice(0, 50)).join(", ")}`;
    }
    default:
      return undefined;
  }
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "string" ? "a text" : String(value);
}

/** Every whole number has bounds besides those of its field: the safe integers. They say nothing of the field. */
function least(origin: string, minimum: number): string {
  if (origin === "string" || origin === "array") {
    return minimum === 1 ? "must not be empty" : `must have at least ${minimum} ${unitOf(origin)}`;
  }
  return minimum === Number.MIN_SAFE_INTEGER ? "is too small" : `must be at least ${minimum}`;
}

function most(origin: string, maximum: number): string {
  if (origin === "string" || origin === "array") return `must have at most ${maximum} ${unitOf(origin)}`;
  return maximum === Number.MAX_SAFE_INTEGER ? "is too large" : `must be at most ${maximum}`;
}

const unitOf = (origin: string) => (origin === "string" ? "characters" : "items");

/** "a", "b" or "c". */
function oneOf(values: readonly unknown[]): string {
  const texts = values.map((value) => JSON.stringify(value));
  return texts.length < 2 ? texts.join() : `${texts.slice(0, -1).join(", ")} or ${texts.at(-1)}`;
}

/** The first of several; where a union has no message of its own, that of the alternative that came nearest. */
export function firstIssue([issue]: readonly Issue[]): Pick<Issue, "path" | "message"> {
  if (issue.code !== "invalid_union" || issue.message !== "Invalid input") return issue;
  const nearness = (inner: Issue) => inner.path.length + (inner.code === "invalid_type" ? 0 : 0.5);
  const inner = issue.errors.flatMap((issues) => issues.slice(0, 1));
  const nearest = inner.toSorted((a, b) => nearness(b) - nearness(a))[0];
  if (nearest === undefined) return issue;
  const found = firstIssue([nearest]);
  return { path: [...issue.path, ...found.path], message: found.message };
}
