import { AppError } from "../app_error.ts";
import type { Trimmed } from "../protocol.ts";
import type { AnswerSource, Turn } from "./answers.ts";

/** What a model is sent of a conversation. */
export interface Context {
  readonly turns: Turn[];
  /** What was left out. Of messages that were not even read, the tokens are an estimate by their characters. */
  readonly trimmed: Trimmed;
}

export interface History {
  readonly system: string | null;
  /** The end of the branch, oldest first; the last one is answered, or gone on with. */
  readonly turns: readonly Turn[];
  /** What stands before `turns` and was not read. */
  readonly unread: { readonly messages: number; readonly chars: number };
}

/** The share of the context that is kept for the answer where the request does not say how long it may be. */
const ANSWER_SHARE = 0.25;

/** Tokens of the context that history may fill. */
const historyBudget = (contextLength: number, maxTokens: number | undefined): number =>
  contextLength - Math.max(1, Math.min(maxTokens ?? Infinity, Math.floor(contextLength * ANSWER_SHARE)));

/**
 * As much of a conversation as fits a model: the system turn always, and of the others whole exchanges (a user's turn with what
 * follows it), the oldest left out first.
 * @throws AppError 400 with the counts where the last exchange alone is too long.
 */
export async function buildContext(
  source: AnswerSource,
  model: string,
  { system, turns, unread }: History,
  maxTokens?: number,
): Promise<Context> {
  const length = source.contextLength(model);
  const budget = historyBudget(length, maxTokens);
  const first: Turn[] = system ? [{ role: "system", content: system }] : [];
  const count = (from: number) => source.count(model, [...first, ...turns.slice(from)]);
  const cuts = turns.flatMap(({ role }, i) => (role === "user" || i === 0 ? [i] : []));
  // The fewer turns, the fewer tokens: the first cut at which they fit is found by halving.
  let [low, high] = [0, cuts.length - 1];
  if ((await count(0)) <= budget) high = 0;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await count(cuts[middle]!)) <= budget) high = middle;
    else low = middle + 1;
  }
  const from = cuts[high] ?? 0;
  if (high === cuts.length - 1) {
    const least = await count(from);
    if (least > length - 1) throw tooLong(least, length, system !== null);
  }
  const kept = turns.slice(from);
  const left = turns.slice(0, from);
  // A template may refuse to begin where these do.
  const tokens = left.length === 0 ? 0 : await source.count(model, left).catch(() => Infinity);
  return { turns: [...first, ...kept], trimmed: trimmedOf(left, tokens, unread) };
}

function trimmedOf(left: readonly Turn[], counted: number, unread: History["unread"]): Trimmed {
  const chars = left.reduce((sum, { content }) => sum + content.length, 0);
  const known = Number.isFinite(counted) && chars > 0;
  const tokens = known ? counted : Math.ceil(chars / CHARS_PER_TOKEN);
  const perChar = known ? counted / chars : 1 / CHARS_PER_TOKEN;
  return { messages: left.length + unread.messages, tokens: tokens + Math.ceil(unread.chars * perChar) };
}

/** Of English, roughly. */
const CHARS_PER_TOKEN = 4;

function tooLong(tokens: number, length: number, hasSystem: boolean): AppError {
  const what = hasSystem ? "this message and the system prompt have" : "this message has";
  const many = Number.isFinite(tokens) ? `${tokens} tokens` : `many more tokens than that`;
  return new AppError(
    400,
    "context_length_exceeded",
    `${what} ${many}, but the model reads ${length} with its answer: shorten ${hasSystem ? "one of them" : "it"}, or choose a model with a longer context`,
    "text",
  );
}
