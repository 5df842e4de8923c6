/** A value that code sees while a body runs, in place of the usual one. */
export class Ambient<T> {
  #value: T;

  constructor(usual: T) {
    this.#value = usual;
  }

  get value(): T {
    return this.#value;
  }

  /** What `body` returns where the value is another. */
  during<R>(value: T, body: () => R): R {
    const before = this.#value;
    this.#value = value;
    try {
      return body();
    } finally {
      this.#value = before;
    }
  }
}
