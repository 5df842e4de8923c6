/** Milliseconds that a batch should take where no text is being written. */
const alone = 100;
/** The share of a step's time that a batch should take beside it: what is left is for the errors of the estimate. */
const beside = 0.7;

interface Turn {
  start(): void;
}

/**
 * Shares a device among the models of a server. Steps of text models and batches of encoders run one at a time. While text
 * is being written, between two batches come as many steps as take the first batch's time, one at least: a stream of
 * embeddings at most doubles the time from token to token.
 */
export class DeviceShare {
  readonly #now: () => number;
  readonly #steps: Turn[] = [];
  readonly #batches: Turn[] = [];
  /** Engines that have requests, and so will ask for a step. */
  #writing = 0;
  /** Steps and batches that run: one, or two steps of one engine. */
  #running = 0;
  #stepEnd = 0;
  /** Steps that must come before the next batch. */
  #owed = 0;
  /** A step's time in milliseconds: it follows short ones, of single tokens, sooner than long ones, of prompts. */
  #stepMs = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** An engine begins to write: it asks for steps until it says `leave`. */
  enter(): void {
    this.#writing++;
  }

  leave(): void {
    this.#writing--;
    if (this.#running === 0) this.#next();
  }

  /**
   * Runs a step of a text model when the device is free. One that `follows` a step of its engine which still runs may begin
   * at once if nobody waits: the device is never idle between the two.
   */
  async step<T>(work: () => Promise<T>, follows = false): Promise<T> {
    if (follows && this.#running > 0 && this.#steps.length + this.#batches.length === 0) this.#running++;
    else await this.#turn(this.#steps);
    const begin = this.#now();
    try {
      return await work();
    } finally {
      const end = this.#now();
      const took = end - Math.max(begin, this.#stepEnd);
      this.#stepEnd = end;
      const weight = this.#stepMs === 0 ? 1 : took < this.#stepMs ? 0.3 : 0.03;
      this.#stepMs += weight * (took - this.#stepMs);
      this.#owed = Math.max(0, this.#owed - 1);
      this.#done();
    }
  }

  /** Runs a batch of an encoder at its turn; `work` hears how many milliseconds it should take. */
  async batch<T>(work: (ms: number) => Promise<T>): Promise<T> {
    await this.#turn(this.#batches);
    const begin = this.#now();
    try {
      return await work(this.#writing > 0 && this.#stepMs > 0 ? beside * this.#stepMs : alone);
    } finally {
      const took = this.#now() - begin;
      this.#owed = this.#stepMs > 0 ? Math.max(1, Math.ceil(took / this.#stepMs)) : 1;
      this.#done();
    }
  }

  #turn(queue: Turn[]): Promise<void> {
    return new Promise((resolve) => {
      queue.push({ start: resolve });
      if (this.#running === 0) this.#next();
    });
  }

  #done(): void {
    if (--this.#running === 0) this.#next();
  }

  /** Gives the device to whoever is next. */
  #next(): void {
    const batchMay = this.#batches.length > 0 && (this.#owed === 0 || this.#writing === 0);
    const turn = batchMay ? this.#batches.shift() : this.#steps.shift();
    if (turn === undefined) return;
    this.#running++;
    turn.start();
  }
}
