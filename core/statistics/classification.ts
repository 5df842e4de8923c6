import { KilnError } from "../errors.ts";
import { Calibration, type CalibrationBin } from "./calibration.ts";

/** Precision, recall and F1, 0 to 1. A ratio with denominator 0 is 0, as in scikit-learn. */
export interface PrecisionRecall {
  precision: number;
  recall: number;
  f1: number;
}

/** Averages over classes: unweighted, weighted by support, and over all decisions together. */
export interface Averages {
  macro: PrecisionRecall;
  weighted: PrecisionRecall;
  micro: PrecisionRecall;
}

/** The scores of one class. `support` is the number of items of that class. */
export type ClassScore = PrecisionRecall & { label: string; support: number };

export interface ClassificationScore extends Averages {
  accuracy: number;
  /** Matthews' correlation coefficient for any number of classes (Gorodkin 2004), -1 to 1. */
  mcc: number;
  /** Expected calibration error. Null unless every item was added with probabilities. */
  ece: number | null;
  perClass: ClassScore[];
  count: number;
}

/** Counts of the decisions about one class. */
interface Tally {
  hits: number;
  predicted: number;
  actual: number;
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

function scoresOf({ hits, predicted, actual }: Tally): PrecisionRecall {
  return {
    precision: ratio(hits, predicted),
    recall: ratio(hits, actual),
    f1: ratio(2 * hits, predicted + actual),
  };
}

/** The weighted mean of each score. */
function weightedMean(scores: readonly PrecisionRecall[], weights: readonly number[]): PrecisionRecall {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mean = (name: keyof PrecisionRecall) =>
    ratio(
      scores.reduce((sum, score, i) => sum + weights[i] * score[name], 0),
      total,
    );
  return { precision: mean("precision"), recall: mean("recall"), f1: mean("f1") };
}

/** The averages. Only classes for which `counts` is true are part of the macro average. */
function averages(tallies: readonly Tally[], counts: (tally: Tally) => boolean): Averages {
  const scores = tallies.map(scoresOf);
  const sum = (name: keyof Tally) => tallies.reduce((total, tally) => total + tally[name], 0);
  return {
    macro: weightedMean(
      scores,
      tallies.map((tally) => (counts(tally) ? 1 : 0)),
    ),
    weighted: weightedMean(
      scores,
      tallies.map(({ actual }) => actual),
    ),
    micro: scoresOf({ hits: sum("hits"), predicted: sum("predicted"), actual: sum("actual") }),
  };
}

function checkLabels(labels: readonly string[]): void {
  if (labels.length === 0 || new Set(labels).size !== labels.length) {
    throw new KilnError(
      `metrics of a classifier need its labels, each of them once; got ${labels.join(", ") || "none"}`,
    );
  }
}

/**
 * Metrics of single-label classification. The macro average is over the classes that occur, in the truth or in predictions,
 * as in scikit-learn. Keeps only the confusion matrix and the calibration bins.
 */
export class Classification {
  readonly labels: readonly string[];
  /** Items by true class (row) and predicted class (column). */
  readonly confusion: readonly number[][];
  readonly #calibration: Calibration;
  #count = 0;

  /** `labels` are in the order of class indices. `bins` is the number of calibration bins, 15 by default. */
  constructor(labels: readonly string[], { bins = 15 }: { bins?: number } = {}) {
    checkLabels(labels);
    this.labels = [...labels];
    this.confusion = labels.map(() => new Array(labels.length).fill(0));
    this.#calibration = new Calibration(bins);
  }

  /**
   * Adds an item. `predicted` is a class index, or the probabilities of all classes, whose maximum is the prediction.
   * @throws KilnError for a class that does not exist, a NaN, or a wrong number of probabilities.
   */
  add(actual: number, predicted: number | ArrayLike<number>): void {
    const probabilities = typeof predicted === "number" ? null : Array.from(predicted);
    const most = probabilities === null ? Number.NaN : Math.max(...probabilities);
    const guess = typeof predicted === "number" ? predicted : probabilities!.indexOf(most);
    const isRightLength = (probabilities ?? this.labels).length === this.labels.length;
    if (this.confusion[actual]?.[guess] === undefined || !isRightLength) {
      const what =
        probabilities === null ? `class ${guess}` : `${probabilities.length} probabilities (largest ${most})`;
      throw new KilnError(
        `a classifier with ${this.labels.length} labels cannot have predicted ${what} for an item of class ${actual}`,
      );
    }
    this.confusion[actual][guess]++;
    this.#count++;
    if (probabilities !== null) this.#calibration.add(most, guess === actual);
  }

  /** What the calibration error is made of, from low to high confidence. */
  get calibration(): readonly CalibrationBin[] {
    return this.#calibration.bins;
  }

  /** If nothing was added, accuracy and calibration error are NaN and all other scores 0. */
  value(): ClassificationScore {
    const tallies = this.labels.map((_, i): Tally => {
      const column = this.confusion.reduce((sum, row) => sum + row[i], 0);
      return { hits: this.confusion[i][i], predicted: column, actual: sumOf(this.confusion[i]) };
    });
    const hits = sumOf(tallies.map((tally) => tally.hits));
    return {
      accuracy: hits / this.#count,
      ...averages(tallies, ({ predicted, actual }) => predicted + actual > 0),
      mcc: matthews(tallies, hits, this.#count),
      ece: this.#calibration.count === this.#count ? this.#calibration.value() : null,
      perClass: tallies.map((tally, i) => ({
        label: this.labels[i],
        ...scoresOf(tally),
        support: tally.actual,
      })),
      count: this.#count,
    };
  }
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** The correlation of truth and prediction as one-hot rows. 0 if either is always the same class. */
function matthews(tallies: readonly Tally[], hits: number, count: number): number {
  const products = (a: "predicted" | "actual", b: "predicted" | "actual") =>
    sumOf(tallies.map((tally) => tally[a] * tally[b]));
  const square = count * count;
  const spread = (square - products("predicted", "predicted")) * (square - products("actual", "actual"));
  return ratio(hits * count - products("predicted", "actual"), Math.sqrt(spread));
}

export interface MultiLabelScore extends Averages {
  /** The fraction of items whose labels are all right. */
  subsetAccuracy: number;
  /** The fraction of all decisions that are wrong. */
  hammingLoss: number;
  /** Averages over items instead of classes. */
  samples: PrecisionRecall;
  perClass: ClassScore[];
  count: number;
}

/** Metrics of multi-label classification. Averages are over all labels. Memory does not grow with the data. */
export class MultiLabelClassification {
  readonly labels: readonly string[];
  readonly #tallies: Tally[];
  readonly #threshold: number;
  readonly #samples: PrecisionRecall = { precision: 0, recall: 0, f1: 0 };
  #exact = 0;
  #wrong = 0;
  #count = 0;

  /** A label is predicted if its probability is at least `threshold`, 0.5 by default. */
  constructor(labels: readonly string[], { threshold = 0.5 }: { threshold?: number } = {}) {
    checkLabels(labels);
    this.labels = [...labels];
    this.#tallies = labels.map(() => ({ hits: 0, predicted: 0, actual: 0 }));
    this.#threshold = threshold;
  }

  /**
   * Adds an item, given for each label as 1 or 0 and as an independent probability.
   * @throws KilnError if there is not one value per label, or for NaN.
   */
  add(actual: ArrayLike<number>, probabilities: ArrayLike<number>): void {
    const size = this.labels.length;
    if (
      actual.length !== size ||
      probabilities.length !== size ||
      Array.from(probabilities).some(Number.isNaN)
    ) {
      throw new KilnError(
        `an item needs a truth and a probability for each of ${size} labels; got ${actual.length} and ${probabilities.length}, or NaN among them`,
      );
    }
    const item: Tally = { hits: 0, predicted: 0, actual: 0 };
    for (const [i, tally] of this.#tallies.entries()) {
      const has = actual[i] > 0 ? 1 : 0;
      const says = probabilities[i] >= this.#threshold ? 1 : 0;
      for (const sum of [tally, item]) {
        sum.hits += has * says;
        sum.predicted += says;
        sum.actual += has;
      }
    }
    const wrong = item.predicted + item.actual - 2 * item.hits;
    this.#wrong += wrong;
    this.#exact += wrong === 0 ? 1 : 0;
    this.#count++;
    const scores = scoresOf(item);
    for (const name of ["precision", "recall", "f1"] as const) this.#samples[name] += scores[name];
  }

  /** Averages over items are NaN if nothing was added. */
  value(): MultiLabelScore {
    const count = this.#count;
    const { precision, recall, f1 } = this.#samples;
    return {
      subsetAccuracy: this.#exact / count,
      hammingLoss: this.#wrong / (count * this.labels.length),
      ...averages(this.#tallies, () => true),
      samples: { precision: precision / count, recall: recall / count, f1: f1 / count },
      perClass: this.#tallies.map((tally, i) => ({
        label: this.labels[i],
        ...scoresOf(tally),
        support: tally.actual,
      })),
      count,
    };
  }
}
