import { join } from "node:path";
import { compile } from "../core/compile.ts";
import { atomicWriteFile } from "../core/platform/files.ts";
import { dispose, scope } from "../core/scope.ts";
import { Classification, MultiLabelClassification } from "../core/statistics/classification.ts";
import { noGrad } from "../core/tape.ts";
import type { Tensor } from "../core/tensor.ts";
import type { Encoder, EncoderInput } from "../models/encoder.ts";
import { confusionSvg, confusionText } from "./metrics/confusion.ts";
import type { Evaluation, Evaluator, Metrics } from "./recipe.ts";
import type { LabelledIds, TextBatch, TextBatches } from "./text_batches.ts";

type Score = Classification | MultiLabelClassification;

/** How good a text classifier is on texts that it did not learn. */
export class ClassifierEvaluation implements Evaluation<TextBatch> {
  readonly samplesAll = false;
  readonly size: string;
  readonly #model: Encoder;
  readonly #batches: TextBatches;
  readonly #rows: readonly LabelledIds[][];
  readonly #options: EvaluationOptions;
  readonly #logits: (...inputs: Tensor[]) => Tensor;
  /** Names of the inputs, in the order in which the compiled pass takes them. */
  #names: string[] = [];

  /** `rows` are those of `fillRows`. */
  constructor(
    model: Encoder,
    batches: TextBatches,
    rows: readonly LabelledIds[][],
    options: EvaluationOptions,
  ) {
    this.#model = model;
    this.#batches = batches;
    this.#rows = rows;
    this.#options = options;
    this.size = `${rows.flat().length.toLocaleString("en")} ${options.kind} texts`;
    this.#logits = compile((...inputs: Tensor[]) => {
      const named = Object.fromEntries(inputs.map((input, i) => [this.#names[i], input]));
      return noGrad(() => model.logits(named as unknown as EncoderInput));
    });
  }

  get criterion(): string {
    return this.#options.criterion;
  }

  /** On as many rows as `tokens` fill: the texts in them are a random sample. */
  async sample(_trainer?: Evaluator<TextBatch>): Promise<Metrics | null> {
    const { tokens, length } = this.#options;
    return (await this.#measure(this.#rows.slice(0, Math.ceil(tokens / length))))?.metrics ?? null;
  }

  async all(_trainer?: Evaluator<TextBatch>, signal?: AbortSignal): Promise<Metrics | null> {
    const measured = await this.#measure(this.#rows, signal);
    if (!measured) return null;
    const { score, metrics } = measured;
    if (this.#options.isLast && score instanceof Classification) {
      if (score.labels.length <= mostShown) this.#options.say(confusionText(score));
      const picture = join(this.#options.outDir, "confusion.svg");
      await atomicWriteFile(picture, confusionSvg(score));
      this.#options.say(`confusion matrix: ${picture}`);
    }
    return metrics;
  }

  async #measure(rows: readonly LabelledIds[][], signal?: AbortSignal) {
    if (rows.length === 0) return null;
    const { labels } = this.#model;
    const isSeveral = this.#model.config.problem_type === "multi_label_classification";
    const score: Score = isSeveral ? new MultiLabelClassification(labels) : new Classification(labels);
    let [loss, count] = [0, 0];
    for (const batch of this.#batches.all(rows, this.#options.batchSize)) {
      if (signal?.aborted) return null;
      const logits = await this.#logitsOf(batch);
      batch.texts.forEach(({ target }, i) => {
        const own = logits.subarray(i * labels.length, (i + 1) * labels.length);
        const probabilities = isSeveral ? own.map((x) => 1 / (1 + Math.exp(-x))) : softmax(own);
        if (score instanceof MultiLabelClassification) score.add(target, probabilities);
        else score.add(target[0], probabilities);
        loss += isSeveral ? binaryLoss(own, target) : -Math.log(probabilities[target[0]]);
        count++;
      });
    }
    return { score, metrics: { ...numbers(score), validation_loss: loss / count } };
  }

  async #logitsOf(batch: TextBatch): Promise<Float64Array> {
    const logits = scope(() => {
      const { labels: _l, classWeights: _w, ...inputs } = this.#batches.upload(batch);
      this.#names = Object.keys(inputs);
      return this.#logits(...Object.values(inputs));
    });
    const values = Float64Array.from(await logits.data());
    dispose(logits);
    return values;
  }
}

export interface EvaluationOptions {
  criterion: string;
  /** For people: "held-out". */
  kind: string;
  /** Whether the confusion matrix of all texts is shown and drawn. */
  isLast: boolean;
  /** Rows of one pass, and the tokens of each. */
  batchSize: number;
  length: number;
  /** The budget of `sample`. */
  tokens: number;
  outDir: string;
  say: (line: string) => void;
}

/** Labels of a confusion matrix that a terminal has room for. */
const mostShown = 12;

function softmax(logits: Float64Array): Float64Array {
  const most = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** The sum of the labels' binary cross-entropies. */
function binaryLoss(logits: Float64Array, target: readonly number[]): number {
  const term = (x: number, y: number) => Math.max(x, 0) - x * y + Math.log1p(Math.exp(-Math.abs(x)));
  return logits.reduce((sum, x, i) => sum + term(x, target[i]), 0);
}

/** The numbers of a score under the names of the log. */
export function numbers(score: Score): Record<string, number | null> {
  const value = score.value();
  const f1 = { macro_f1: value.macro.f1, weighted_f1: value.weighted.f1 };
  return "mcc" in value
    ? { accuracy: value.accuracy, ...f1, mcc: value.mcc, ece: value.ece }
    : { accuracy: value.subsetAccuracy, ...f1, micro_f1: value.micro.f1, hamming_loss: value.hammingLoss };
}
