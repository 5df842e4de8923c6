/** Results by key for a while, so that what is asked again gets the same: how requests are made idempotent. */
export class Recent<T> {
  readonly #forMs: number;
  readonly #kept = new Map<string, { readonly at: number; readonly result: Promise<T> }>();

  constructor(forMs: number) {
    this.#forMs = forMs;
  }

  /** The result that `key` has, or the one that `make` gives it. A failure is not kept. */
  get(key: string, make: () => Promise<T>): Promise<T> {
    const now = Date.now();
    // In the order of their making: the old ones come first.
    for (const [old, { at }] of this.#kept) {
      if (now - at < this.#forMs) break;
      this.#kept.delete(old);
    }
    const known = this.#kept.get(key);
    if (known !== undefined) return known.result;
    const result = make();
    this.#kept.set(key, { at: now, result });
    result.catch(() => this.#kept.delete(key));
    return result;
  }
}
