import { KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  type Activation,
  bceWithLogits,
  linear,
  mul,
  ne,
  permute,
  reshape,
  square,
  sub,
  sum,
  where,
} from "../kernels/index.ts";
import {
  crossEntropyLoss,
  type LayerNorm,
  type Linear,
  type Parameter,
  type RunOptions,
} from "../nn/index.ts";
import type { LabelKeys, Task } from "./labels.ts";

/** Makes f32 logits [R, …] of hidden states [R, hidden_size]. */
export interface Head {
  logits(hidden: Tensor, options: RunOptions): Tensor;
}

/** Logits of classes from one token: out(dropout(x)), or with a layer before it out(dropout(activation(dense(dropout(x))))). */
export class ClassifierHead implements Head {
  readonly #out: Linear;
  readonly #before: { dense: Linear; activation: (x: Tensor) => Tensor } | null;

  constructor(out: Linear, before: { dense: Linear; activation: (x: Tensor) => Tensor } | null = null) {
    this.#out = out;
    this.#before = before;
  }

  logits(hidden: Tensor, run: RunOptions): Tensor {
    const { dropout } = run;
    let x = hidden;
    if (this.#before) {
      const { dense, activation } = this.#before;
      x = activation(dense.forward(dropout?.rates.pooler ? dropout.apply(x, "pooler") : x, run));
    }
    return this.#out.forward(dropout?.apply(x, "head") ?? x, { ...run, outDtype: "f32" });
  }
}

/** Logits of the vocabulary: norm(activation(dense(x))) times the embedding's matrix, plus a bias (Devlin et al. 2018). */
export class MaskedLMHead implements Head {
  readonly #parts: { dense: Linear; norm: LayerNorm; bias: Parameter; embedding: Parameter };
  readonly #activation: Activation;

  /** `embedding` [vocab_size, hidden_size] is the model's own, `bias` [vocab_size]. */
  constructor(
    parts: { dense: Linear; norm: LayerNorm; bias: Parameter; embedding: Parameter },
    activation: Activation,
  ) {
    this.#parts = parts;
    this.#activation = activation;
  }

  logits(hidden: Tensor, { batchInvariant = false, dropout }: RunOptions): Tensor {
    const { dense, norm, bias, embedding } = this.#parts;
    const options = { batchInvariant, dropout, activation: this.#activation };
    const x = norm.forward(dense.forward(hidden, options)); // [R, hidden]
    return linear(x, embedding.compute, bias, { batchInvariant, outDtype: "f32" }); // [R, vocab]
  }
}

/** See `Encoder.loss`. */
export function headLoss(
  task: Task,
  problem: LabelKeys["problem_type"],
  logits: Tensor,
  labels: Tensor,
  weight?: Tensor,
): Tensor {
  if (task === "feature-extraction")
    throw new KilnError(
      "a model without a head has no loss; load it with one, for example text-classification",
    );
  if (task === "question-answering") {
    const [rows] = labels.shape;
    const ends = permute(reshape(logits, [rows, -1, 2]), [0, 2, 1]); // [B, 2, T]
    const loss = crossEntropyLoss(reshape(ends, [2 * rows, -1]), reshape(labels, [-1]), { reduction: "sum" });
    return mul(loss, 0.5);
  }
  if (task !== "text-classification" || labels.dtype !== "f32")
    return crossEntropyLoss(logits, reshape(labels, [-1]), { reduction: "sum", ...(weight && { weight }) });
  const terms =
    problem === "multi_label_classification" ? bceWithLogits(logits, labels) : square(sub(logits, labels));
  return sum(where(ne(labels, -100), terms, 0));
}
