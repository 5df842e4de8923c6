/** Predictions of about one confidence: how many, how many of them right, and the sum of their confidences. */
export interface CalibrationBin {
  count: number;
  right: number;
  confidence: number;
}

/**
 * Expected calibration error (Naeini et al. 2015; Guo et al. 2017): the difference between confidence and accuracy in bins
 * of equal width, averaged with the number of predictions in each bin as its weight. Keeps only the sums of the bins.
 */
export class Calibration {
  readonly bins: readonly CalibrationBin[];
  count = 0;

  constructor(bins = 15) {
    this.bins = Array.from({ length: bins }, () => ({ count: 0, right: 0, confidence: 0 }));
  }

  /** Adds a prediction with the probability that the model assigned to it. */
  add(confidence: number, isRight: boolean): void {
    // A bin includes its upper bound, so 1 belongs to the last bin.
    const index = Math.ceil(confidence * this.bins.length) - 1;
    const bin = this.bins[Math.min(this.bins.length - 1, Math.max(0, index))];
    bin.count++;
    bin.right += isRight ? 1 : 0;
    bin.confidence += confidence;
    this.count++;
  }

  /** 0 to 1. NaN if nothing was added. */
  value(): number {
    const gaps = this.bins.map(({ right, confidence }) => Math.abs(right - confidence));
    return gaps.reduce((sum, gap) => sum + gap, 0) / this.count;
  }
}
