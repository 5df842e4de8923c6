/**
 * Expected calibration error (Naeini et al. 2015; Guo et al. 2017): how far confidence is from accuracy, in bins of equal
 * width over [0, 1], weighted by how many predictions fall into each. Keeps the sums of the bins alone.
 */
export class Calibration {
  readonly #bins: { count: number; right: number; confidence: number }[];
  count = 0;

  constructor(bins = 15) {
    this.#bins = Array.from({ length: bins }, () => ({ count: 0, right: 0, confidence: 0 }));
  }

  /** Adds a prediction with the probability that the model gave it. */
  add(confidence: number, isRight: boolean): void {
    // A bin holds its upper end: exactly 1 belongs to the last one.
    const index = Math.ceil(confidence * this.#bins.length) - 1;
    const bin = this.#bins[Math.min(this.#bins.length - 1, Math.max(0, index))];
    bin.count++;
    bin.right += isRight ? 1 : 0;
    bin.confidence += confidence;
    this.count++;
  }

  /** 0 to 1; NaN where nothing was added. */
  value(): number {
    const gaps = this.#bins.map(({ right, confidence }) => Math.abs(right - confidence));
    return gaps.reduce((sum, gap) => sum + gap, 0) / this.count;
  }
}
