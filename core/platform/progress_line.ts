import { environmentVariable } from "./environment.ts";

/** Where progress is shown: the part of process.stderr or process.stdout that this file uses. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface ProgressLineOptions {
  stream?: ProgressStream;
  env?: Record<string, string | undefined>;
  /** Milliseconds; for tests. */
  now?: () => number;
  /** Milliseconds between lines if the stream is not a terminal; default 5000. */
  interval?: number;
}

const BAR_CELLS = 20;
const TTY_INTERVAL = 100;

/**
 * Progress in one line that is redrawn on a terminal; elsewhere (a pipe, a log file) a plain line every few seconds.
 * Colours only on a terminal and without NO_COLOR (no-color.org).
 */
export class ProgressLine {
  /** Milliseconds. */
  readonly now: () => number;
  readonly #stream: ProgressStream;
  readonly #interval: number;
  readonly #terminal: boolean;
  readonly #colour: boolean;
  #lastTime = Number.NEGATIVE_INFINITY;
  #lastLine: string | null = null;
  #shown = false;

  constructor(options: ProgressLineOptions = {}) {
    const { stream = process.stderr } = options;
    const variable = (name: string) => (options.env ? options.env[name] : environmentVariable(name));
    this.now = options.now ?? (() => performance.now());
    this.#stream = stream;
    this.#terminal = stream.isTTY === true && variable("TERM") !== "dumb";
    this.#interval = this.#terminal ? TTY_INTERVAL : (options.interval ?? 5000);
    this.#colour = this.#terminal && !variable("NO_COLOR");
  }

  /**
   * Shows `text` beside a bar that is full at `share` 1, at most ten times a second on a terminal and once per interval
   * elsewhere; always at share 1.
   */
  update(share: number, text: string): void {
    const now = this.now();
    this.#lastLine = this.#line(Math.min(1, share), text);
    this.#shown = false;
    if (now - this.#lastTime < this.#interval && share < 1) return;
    this.#lastTime = now;
    this.#draw();
  }

  /** Prints a line of its own (a sample, a checkpoint's name) without tearing the progress line. */
  note(text: string): void {
    if (!this.#terminal) {
      this.#stream.write(`${text}\n`);
      return;
    }
    this.#stream.write(`\r\x1b[2K${text}\n`);
    if (this.#lastLine !== null) this.#draw();
  }

  /** Shows the last state if it was held back, and ends the line. Call it once, also after a failure. */
  end(): void {
    if (this.#lastLine === null) return;
    if (!this.#shown) this.#draw();
    if (this.#terminal) this.#stream.write("\n");
    this.#lastLine = null;
  }

  #draw(): void {
    this.#shown = true;
    if (this.#terminal) this.#stream.write(`\r\x1b[2K${this.#lastLine}`);
    else this.#stream.write(`${this.#lastLine}\n`);
  }

  #line(share: number, text: string): string {
    if (!this.#terminal) return text;
    // A line that wraps cannot be redrawn: the bar goes first, then the end of the text.
    const columns = this.#stream.columns ?? 80;
    if (text.length + BAR_CELLS + 2 > columns) return text.slice(0, columns - 1);
    const filled = Math.round(share * BAR_CELLS);
    return `${this.#paint("━".repeat(filled), 36)}${this.#paint("━".repeat(BAR_CELLS - filled), 90)}  ${text}`;
  }

  #paint(text: string, colour: number): string {
    if (this.#colour) return `\x1b[${colour}m${text}\x1b[0m`;
    // Without colours, the part still ahead needs another character.
    return colour === 90 ? text.replaceAll("━", "·") : text;
  }
}

/** A count in three digits: 950, 1.2k, 34k, 5.6M. */
export function count(value: number): string {
  if (!Number.isFinite(value)) return "–";
  for (const [scale, suffix] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (value >= scale) return `${(value / scale).toFixed(value < 10 * scale ? 1 : 0)}${suffix}`;
  }
  return value.toFixed(value < 10 ? 1 : 0);
}

/** Bytes in MiB or GiB. */
export function bytes(value: number): string {
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

/** Seconds as 45s, 3m05s or 2h07m. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.round(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
}
