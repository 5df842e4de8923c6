/** Where progress is shown: the part of process.stderr or process.stdout that this file uses. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

/** The state of a run after an update. */
export interface ProgressState {
  /** Updates done, counted from the start of the run. */
  step: number;
  loss: number;
  validationLoss?: number;
  /** NaN while it is not known. */
  tokensPerSecond: number;
  /** Bytes in use on the device. */
  memoryBytes?: number;
}

export interface ProgressOptions {
  total: number;
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
 * The progress of a run: one line that is redrawn on a terminal; elsewhere (a pipe, a log file) a plain line every few
 * seconds. Colours only on a terminal and without NO_COLOR (no-color.org).
 */
export class Progress {
  readonly #options: Required<ProgressOptions>;
  readonly #terminal: boolean;
  readonly #colour: boolean;
  /**
   * When this process finished its first update: that one included compiling, so only later ones tell how long updates take.
   */
  #first: { step: number; time: number } | null = null;
  #lastTime = Number.NEGATIVE_INFINITY;
  #lastLine: string | null = null;
  #shown = false;

  constructor(options: ProgressOptions) {
    const defaults = {
      stream: process.stderr,
      env: process.env,
      now: () => performance.now(),
      interval: 5000,
    };
    this.#options = { ...defaults, ...options };
    const { stream, env } = this.#options;
    this.#terminal = stream.isTTY === true && env.TERM !== "dumb";
    this.#colour = this.#terminal && !env.NO_COLOR;
  }

  /** Shows the state, at most ten times a second on a terminal and once per interval elsewhere; always for the last step. */
  update(state: ProgressState): void {
    const now = this.#options.now();
    this.#first ??= { step: state.step, time: now };
    const interval = this.#terminal ? TTY_INTERVAL : this.#options.interval;
    this.#lastLine = this.#line(state, now);
    this.#shown = false;
    if (now - this.#lastTime < interval && state.step < this.#options.total) return;
    this.#lastTime = now;
    this.#draw();
  }

  /** Prints a line of its own (a sample, a checkpoint's name) without tearing the progress line. */
  note(text: string): void {
    const { stream } = this.#options;
    if (!this.#terminal) {
      stream.write(`${text}\n`);
      return;
    }
    stream.write(`\r\x1b[2K${text}\n`);
    if (this.#lastLine !== null) this.#draw();
  }

  /** Shows the last state if it was held back, and ends the line. Call it once, also after a failure. */
  end(): void {
    if (this.#lastLine === null) return;
    if (!this.#shown) this.#draw();
    if (this.#terminal) this.#options.stream.write("\n");
    this.#lastLine = null;
  }

  #draw(): void {
    const { stream } = this.#options;
    this.#shown = true;
    if (this.#terminal) stream.write(`\r\x1b[2K${this.#lastLine}`);
    else stream.write(`${this.#lastLine}\n`);
  }

  #line(state: ProgressState, now: number): string {
    const { total, stream } = this.#options;
    const done = Math.min(1, state.step / total);
    const { step: from, time } = this.#first!;
    const left = total - state.step;
    // The rate is not known before a second update: 0 / 0 is shown as a dash.
    const seconds = left <= 0 ? 0 : (left * (now - time)) / (state.step - from) / 1000;
    const facts = [`loss ${state.loss.toFixed(4)}`];
    if (state.validationLoss !== undefined) facts.push(`val ${state.validationLoss.toFixed(4)}`);
    facts.push(`${count(state.tokensPerSecond)} tok/s`);
    if (state.memoryBytes !== undefined) facts.push(bytes(state.memoryBytes));
    facts.push(`ETA ${duration(seconds)}`);
    const step = `step ${state.step}/${total}`;
    const text = `${step}  ${facts.join("  ")}`;
    if (!this.#terminal) return text;
    // A line that wraps cannot be redrawn: the bar goes first, then the end of the text.
    const columns = stream.columns ?? 80;
    if (text.length + BAR_CELLS + 2 > columns) return text.slice(0, columns - 1);
    const filled = Math.round(done * BAR_CELLS);
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
