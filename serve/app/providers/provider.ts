import type { Turn } from "../chat/answers.ts";
import type { Params, Usage } from "../protocol.ts";

/** What a provider is asked. */
export interface ProviderCall {
  /** As the provider calls it. */
  readonly model: string;
  readonly task: "chat" | "text-classification" | "fill-mask";
  readonly turns: readonly Turn[];
  readonly params: Params;
  /** Whether the last turn is an answer to go on writing. */
  readonly continues: boolean;
  /** Whether the log probability of each token is wanted. */
  readonly scores: boolean;
}

/** A part of an answer: text, or what is known of it. */
export interface Piece {
  readonly text?: string;
  readonly logprobs?: readonly number[];
  readonly usage?: Usage;
  readonly finish?: "stop" | "length";
}

/** How one kind of provider is spoken to. Paths start from its base URL. */
export interface Dialect {
  request(call: ProviderCall): { path: string; body: object };
  /** What the lines of an answer hold. @throws DialectError. */
  read(lines: AsyncIterable<string>, call: ProviderCall): AsyncIterable<Piece>;
  /** Where it lists its models, and their names in the answer; null: it does not. */
  readonly list: { readonly path: string; names(body: unknown): string[] } | null;
}

/** An answer that is none of its dialect, or tells of an error in its middle. */
export class DialectError extends Error {}

/** The JSON of a line. @throws DialectError. */
export function jsonOf(text: string): Record<string, unknown> | unknown[] {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {}
  throw new DialectError("its answer is no JSON");
}

/** A count of tokens, 0 for what is none. */
export const tokens = (value: unknown): number =>
  Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : 0;

/** The error that an answer tells of; null: none. */
export function errorIn(body: unknown): string | null {
  const error = (body as { error?: unknown } | null)?.error;
  if (error == null) return null;
  const { message = error } = error as { message?: unknown };
  return typeof message === "string" ? message : JSON.stringify(message);
}

const GO_ON = "Go on exactly where your last answer stopped. Repeat nothing of it.";

/** The turns, with a request to go on where the provider cannot be told to. */
export const asked = ({ turns, continues }: ProviderCall, canContinue: boolean): readonly Turn[] =>
  continues && !canContinue ? [...turns, { role: "user", content: GO_ON }] : turns;

const LINE_CHARS = 2 ** 20;

/** The lines of a body in UTF-8, wherever its parts are cut. @throws DialectError for one that is far too long. */
export async function* linesOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split(/\r?\n/);
    rest = lines.pop()!;
    if (rest.length > LINE_CHARS)
      throw new DialectError("its answer has a line of over a million characters");
    yield* lines;
  }
  rest += decoder.decode();
  if (rest !== "") yield rest;
}
