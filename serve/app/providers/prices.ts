import { z } from "zod";
import type { Usage } from "../protocol.ts";

const rate = z.int().min(0);

/** Whole micro-dollars of a million tokens, from a day on. */
export const priceSchema = z.strictObject({
  valid_from: z.iso.date("expected a day such as 2026-01-31").default("1970-01-01"),
  input: rate,
  /** Input that the provider had in its cache; default: as other input. */
  cached_input: rate.optional(),
  output: rate,
});
export type Price = z.output<typeof priceSchema>;

/** The price that holds at a time: the latest that has begun; null: none is known. */
export function priceAt(prices: readonly Price[], now: number): Price | null {
  const begun = prices.filter(({ valid_from }) => Date.parse(valid_from) <= now);
  return begun.sort((a, b) => (a.valid_from < b.valid_from ? 1 : -1))[0] ?? null;
}

/**
 * What a call cost, in whole micro-dollars, a half rounded to the even one: exact for any number of tokens. Tokens of reasoning
 * are among those of the output. null: the price is not known.
 */
export function costOf(price: Price | null, usage: Usage): number | null {
  if (price === null) return null;
  const { input, output, cached_input = input } = price;
  const cached = Math.min(usage.cached_tokens, usage.prompt_tokens);
  const millionths =
    BigInt(usage.prompt_tokens - cached) * BigInt(input) +
    BigInt(cached) * BigInt(cached_input) +
    BigInt(usage.completion_tokens) * BigInt(output);
  const [whole, rest] = [millionths / 1_000_000n, millionths % 1_000_000n];
  const up = rest > 500_000n || (rest === 500_000n && whole % 2n === 1n);
  return Number(whole + (up ? 1n : 0n));
}
