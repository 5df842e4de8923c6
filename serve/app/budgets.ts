import type { Store } from "../store/index.ts";
import { AppError } from "./app_error.ts";
import { dayOf } from "./usage.ts";

/** What a user may use in a day, in UTC; absent: as much as they like. */
export interface BudgetSettings {
  readonly microusd_per_user_day?: number | undefined;
  readonly tokens_per_user_day?: number | undefined;
}

/** Checks before each answer what its user has used on this day. What is being written is not counted yet. */
export class Budgets {
  readonly #store: Store;
  readonly #settings: BudgetSettings;
  readonly #now: () => number;

  constructor(store: Store, settings: BudgetSettings, now: () => number = Date.now) {
    this.#store = store;
    this.#settings = settings;
    this.#now = now;
  }

  /** @param paid whether the answer may cost money. @throws AppError 429 with the time at which a new day begins. */
  async check(userId: string, paid: boolean): Promise<void> {
    const { tokens_per_user_day: tokens = Infinity, microusd_per_user_day } = this.#settings;
    const money = paid ? (microusd_per_user_day ?? Infinity) : Infinity;
    if (tokens === Infinity && money === Infinity) return;
    const now = this.#now();
    const [used] = await this.#store.all<{ cost: number | null; tokens: number | null }>(
      "SELECT CAST(sum(cost_microusd) AS INTEGER) AS cost, CAST(sum(prompt_tokens + completion_tokens) AS INTEGER) AS tokens FROM usage_day WHERE day = ? AND user_id = ?",
      [dayOf(now), userId],
    );
    const over = (used?.cost ?? 0) >= money ? "money" : (used?.tokens ?? 0) >= tokens ? "tokens" : null;
    if (over === null) return;
    const reset = new Date((dayOf(now) + 1) * 86_400_000);
    throw new AppError(
      429,
      "budget_exceeded",
      `what ${over} you have for today is used up: there is more at ${reset.toISOString()}`,
      null,
      {
        "retry-after": String(Math.ceil((reset.getTime() - now) / 1000)),
      },
    );
  }
}
