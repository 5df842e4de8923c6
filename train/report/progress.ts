import {
  bytes,
  count,
  duration,
  ProgressLine,
  type ProgressLineOptions,
} from "../../core/platform/progress_line.ts";

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

export interface ProgressOptions extends ProgressLineOptions {
  total: number;
}

/** The progress of a run in one line; the last step is always shown. */
export class Progress {
  readonly #total: number;
  readonly #line: ProgressLine;
  /**
   * When this process finished its first update: that one included compiling, so only later ones tell how long updates take.
   */
  #first: { step: number; time: number } | null = null;

  constructor(options: ProgressOptions) {
    this.#total = options.total;
    this.#line = new ProgressLine(options);
  }

  update(state: ProgressState): void {
    const now = this.#line.now();
    this.#first ??= { step: state.step, time: now };
    this.#line.update(state.step / this.#total, this.#text(state, now));
  }

  /** Prints a line of its own (a sample, a checkpoint's name) without tearing the progress line. */
  note(text: string): void {
    this.#line.note(text);
  }

  /** Ends the line. Call it once, also after a failure. */
  end(): void {
    this.#line.end();
  }

  #text(state: ProgressState, now: number): string {
    const { step: from, time } = this.#first!;
    const left = this.#total - state.step;
    // The rate is not known before a second update: 0 / 0 is shown as a dash.
    const seconds = left <= 0 ? 0 : (left * (now - time)) / (state.step - from) / 1000;
    const facts = [`loss ${state.loss.toFixed(4)}`];
    if (state.validationLoss !== undefined) facts.push(`val ${state.validationLoss.toFixed(4)}`);
    facts.push(`${count(state.tokensPerSecond)} tok/s`);
    if (state.memoryBytes !== undefined) facts.push(bytes(state.memoryBytes));
    facts.push(`ETA ${duration(seconds)}`);
    return `step ${state.step}/${this.#total}  ${facts.join("  ")}`;
  }
}
