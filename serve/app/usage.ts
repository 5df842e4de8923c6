import type { Store } from "../store/index.ts";
import { AppError } from "./app_error.ts";
import type { UsageReport } from "./protocol.ts";

const DAY_MS = 86_400_000;

/** Days since 1970 in UTC, as `usage_day` counts them. */
export const dayOf = (at: number): number => Math.floor(at / DAY_MS);
/** Such a day as YYYY-MM-DD. */
export const dayName = (day: number): string => new Date(day * DAY_MS).toISOString().slice(0, 10);

/** The day of YYYY-MM-DD. @throws AppError 422 that names `param`. */
export function dayNumber(text: string, param: string): number {
  const at = /^\d{4}-\d\d-\d\d$/.test(text) ? Date.parse(text) : Number.NaN;
  // Date.parse takes the 30th of February.
  if (!Number.isNaN(at) && new Date(at).toISOString().startsWith(text)) return dayOf(at);
  throw new AppError(422, "invalid_query", `${param}: must be a day, as 2026-12-01`, param);
}

/** What one request has used. */
export interface Used {
  readonly at: number;
  readonly userId: string;
  readonly model: string;
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  /** null: the price is not known. */
  readonly cost_microusd: number | null;
  /** Whether the tokens were counted by us because the provider did not say. */
  readonly estimated: boolean;
}

/** Adds a request to the sums of its day, in the transaction that keeps what came of it. */
export async function recordUsage(tx: Store, used: Used): Promise<void> {
  const columns = "requests, prompt_tokens, completion_tokens, cost_microusd, unknown_price, estimated".split(
    ", ",
  );
  const sums = columns.map((name) => `${name} = usage_day.${name} + excluded.${name}`).join(", ");
  await tx.run(
    `INSERT INTO usage_day (day, user_id, model, ${columns.join(", ")}) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?) ON CONFLICT (day, user_id, model) DO UPDATE SET ${sums}`,
    [
      ...[dayOf(used.at), used.userId, used.model, used.prompt_tokens, used.completion_tokens],
      ...[used.cost_microusd ?? 0, used.cost_microusd === null, used.estimated],
    ],
  );
}

/** Which rows a report is of: days from and to, both included; null: everybody's. */
export interface UsageRange {
  readonly from: number;
  readonly to: number;
  readonly userId: string | null;
}

/** The sums by day, user and model. Micro-dollars are whole: their sums are exact. */
export async function usageReport(store: Store, { from, to, userId }: UsageRange): Promise<UsageReport> {
  const rows = await store.all<Omit<UsageReport["rows"][number], "day"> & { day: number }>(
    `SELECT day, user_id, model, requests, prompt_tokens, completion_tokens, cost_microusd, unknown_price, estimated FROM usage_day WHERE day >= ? AND day <= ?${userId === null ? "" : " AND user_id = ?"} ORDER BY day, user_id, model`,
    [from, to, ...(userId === null ? [] : [userId])],
  );
  return { rows: rows.map(({ day, ...row }) => ({ day: dayName(day), ...row })) };
}
