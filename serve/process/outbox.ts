/**
 * Collects what is said within one turn and sends it as one message, so that a step costs one however many sequences it has.
 */
export class Outbox<T> {
  readonly #send: (messages: readonly T[]) => void;
  #waiting: T[] = [];
  /** Made when they are sent. */
  readonly #late = new Set<() => T>();
  #due = false;

  constructor(send: (messages: readonly T[]) => void) {
    this.#send = send;
  }

  push(message: T): void {
    this.#waiting.push(message);
    this.#schedule();
  }

  /** Adds a message that is made when it is sent: once, however often it is asked for until then. */
  pushLate(make: () => T): void {
    this.#late.add(make);
    this.#schedule();
  }

  flush(): void {
    const messages = [...this.#waiting, ...[...this.#late].map((make) => make())];
    this.#waiting = [];
    this.#late.clear();
    if (messages.length > 0) this.#send(messages);
  }

  #schedule(): void {
    if (this.#due) return;
    this.#due = true;
    queueMicrotask(() => {
      this.#due = false;
      this.flush();
    });
  }
}
