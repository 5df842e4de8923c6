import { open } from "node:fs/promises";

/** A line of a run's `log.jsonl`: numbers of an update or of a measurement. */
export type LogRecord = { readonly step: number } & Readonly<Record<string, number | null>>;

/** Reads a log that another process writes: what it has of the updates after the first `done`. */
export class LogFollower {
  readonly #path: string;
  readonly #done: number;
  /** Bytes read. */
  #at = 0;

  constructor(path: string, done: number) {
    this.#path = path;
    this.#done = done;
  }

  /** The records that came since the last look; a line that is not whole yet comes next time. */
  async next(): Promise<LogRecord[]> {
    const file = await open(this.#path).catch(() => null);
    if (file === null) return [];
    try {
      const unread = (await file.stat()).size - this.#at;
      const { buffer, bytesRead } = await file.read(Buffer.alloc(unread), 0, unread, this.#at);
      const whole = buffer.subarray(0, buffer.subarray(0, bytesRead).lastIndexOf(10) + 1);
      this.#at += whole.length;
      return whole
        .toString()
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as LogRecord)
        .filter(({ step }) => this.#done === 0 || step > this.#done);
    } finally {
      await file.close();
    }
  }
}
