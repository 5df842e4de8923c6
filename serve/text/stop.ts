import { partialMatch } from "../../tokenizer/decoders.ts";

/**
 * Finds stop strings in text that arrives in pieces, and holds back text that could still become part of one. The first
 * stop string to be complete wins (the longest of those that end together), however the text was cut into pieces.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #include: boolean;
  #held = "";
  #matched: string | null = null;

  /** @param include keep the stop string itself in the output. */
  constructor(stops: readonly string[], include = false) {
    this.#stops = stops;
    this.#include = include;
  }

  /** The stop string that ended the text, or null. */
  get matched(): string | null {
    return this.#matched;
  }

  /**
   * Adds text; returns what may be shown. After a match: "".
   * @param counts whether a stop string that ends within this text counts.
   */
  push(text: string, counts = true): string {
    if (this.#matched !== null) return "";
    if (this.#stops.length === 0) return text;
    const from = this.#held.length;
    const buffer = this.#held + text;
    for (let end = from + 1; counts && end <= buffer.length; end++) {
      const stop = this.#endingAt(buffer, end);
      if (stop === null) continue;
      this.#matched = stop;
      this.#held = "";
      return buffer.slice(0, this.#include ? end : end - stop.length);
    }
    const keep = Math.max(...this.#stops.map((stop) => partialMatch(buffer, stop)));
    this.#held = buffer.slice(buffer.length - keep);
    return buffer.slice(0, buffer.length - keep);
  }

  /** The text that is still held back; call at the end. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #endingAt(buffer: string, end: number): string | null {
    let longest: string | null = null;
    for (const stop of this.#stops) {
      if (stop.length > (longest?.length ?? 0) && buffer.endsWith(stop, end)) longest = stop;
    }
    return longest;
  }
}
