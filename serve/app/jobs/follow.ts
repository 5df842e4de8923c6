import { open } from "node:fs/promises";

/** A line of a run's `log.jsonl`: numbers of an update or of a measurement. */
export type LogRecord = { readonly step: number } & Readonly<Record<string, number | null>>;

/** Reads a log that another process writes, from its end at the first look on. */
export class LogFollower {
  readonly #path: string;
  #at: number | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  /** The records that came since the last look; a line that is not whole yet comes next time. */
  async next(): Promise<LogRecord[]> {
    const file = await open(this.#path).catch(() => null);
    if (file === null) {
      this.#at ??= 0;
      return [];
    }
    try {
      const { size } = await file.stat();
      // What a run that is resumed writes again is cut off first.
      if (this.#at === null || size < this.#at) this.#at = size;
      const { buffer, bytesRead } = await file.read(
        Buffer.alloc(size - this.#at),
        0,
        size - this.#at,
        this.#at,
      );
      const whole = buffer.subarray(0, buffer.subarray(0, bytesRead).lastIndexOf(10) + 1);
      this.#at += whole.length;
      return whole
        .toString()
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as LogRecord);
    } finally {
      await file.close();
    }
  }
}
