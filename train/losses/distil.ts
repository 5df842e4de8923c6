import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import {
  add,
  crossEntropy,
  exp,
  logSoftmax,
  mul,
  narrow,
  ne,
  overRowChunks,
  reshape,
  stack,
  sub,
  sum,
  where,
} from "../../kernels/index.ts";
import { CausalLM } from "../../models/decoder.ts";
import type { Encoder, EncoderBatch } from "../../models/encoder.ts";
import { headLoss } from "../../models/heads.ts";
import type { TokenBatch } from "../../models/model.ts";
import { cosineEmbeddingLoss, PassDropout } from "../../nn/index.ts";
import { type Batch, IGNORE } from "../data/index.ts";
import type { TextInputs } from "../text_batches.ts";
import { uploadTokens } from "../trainer.ts";

export interface DistilOptions {
  /** Divides the logits of both models: higher shows more of what the teacher thinks of unlikely tokens. */
  temperature: number;
  /** `forward`: KL(teacher || student), which covers all that the teacher says; `reverse`: KL(student || teacher). */
  divergence: "forward" | "reverse";
  /** What the divergence counts, the student's own loss, and 1 - cos of the last hidden states. */
  soft_weight: number;
  hard_weight: number;
  hidden_weight: number;
}

/** Packed rows, and whether a place counts: a masked language model learns from the teacher at all, not at its targets alone. */
export interface DistilBatch extends Batch {
  counted: Float32Array;
}
export interface DistilInputs extends TokenBatch {
  /** f32 [B, T]: 0 or 1. */
  counted: Tensor;
}

/** What is logged: means over the places that count. */
export const distilMetrics = ["validation_loss", "soft_loss", "hard_loss", "hidden_loss"] as const;

/** A batch whose places count that have a next token; `masked` is what the models read of it. */
export function countedBatch(batch: Batch, masked: Batch = batch): DistilBatch {
  return { ...masked, counted: Float32Array.from(batch.targets, (next) => (next === IGNORE ? 0 : 1)) };
}

export function uploadCounted(batch: DistilBatch, seqLen: number): DistilInputs {
  const inputs = uploadTokens(batch, seqLen);
  return { ...inputs, counted: tensor(batch.counted, inputs.tokens.shape) };
}

/** exp(log p) (log p - log q), summed over the classes: f32 [R] from logits [R, V]. */
function divergence(p: Tensor, q: Tensor, temperature: number): Tensor {
  const [logP, logQ] = [p, q].map((logits) => logSoftmax(mul(logits, 1 / temperature)));
  return mul(sum(mul(exp(logP), sub(logP, logQ)), -1), temperature ** 2);
}

/**
 * DistilBERT's triple loss (Sanh et al. 2019) for masked language models, and the same for decoders (Hinton et al. 2015):
 * the student follows the teacher's distribution, the text, and the direction of the teacher's last hidden state. Logits
 * of both are made by chunks of rows.
 */
export class DistilObjective<M extends CausalLM | Encoder> {
  readonly #student: M;
  readonly #teacher: M;
  readonly #options: DistilOptions;
  /** The share of the counted places that have a target: the own loss is a mean over these. */
  readonly #share: number;

  constructor(student: M, teacher: M, options: DistilOptions, share = 1) {
    this.#student = student;
    this.#teacher = teacher;
    this.#options = options;
    this.#share = share;
  }

  /** The weighted sum of the losses over the places that count, f32 []. */
  loss(batch: DistilInputs): Tensor {
    return this.#sums(batch)[0];
  }

  /** The sums of what `distilMetrics` names, f32 [4]. */
  metrics(batch: DistilInputs): Tensor {
    return stack(this.#sums(batch));
  }

  #sums({ dropoutKey, ...batch }: DistilInputs): Tensor[] {
    const { temperature, divergence: kind, soft_weight, hard_weight, hidden_weight } = this.#options;
    const dropout = dropoutKey && new PassDropout(dropoutKey, this.#student.dropoutRates);
    const flat = (t: Tensor) => reshape(t, [batch.tokens.size, -1]);
    const student = flat(hiddenOf(this.#student, { ...batch, dropout }));
    const teacher = noGrad(() => flat(hiddenOf(this.#teacher, batch)));
    const both = overRowChunks(
      [student, teacher, reshape(batch.targets, [-1])],
      4 * this.#student.shape.vocab_size,
      (own, other, targets) => {
        const said = logitsOf(this.#student, own);
        const taught = noGrad(() => logitsOf(this.#teacher, other));
        const [p, q] = kind === "forward" ? [taught, said] : [said, taught];
        const hard = mul(crossEntropy(said, targets, { reduction: "none" }), 1 / this.#share);
        return stack([divergence(p, q, temperature), hard], 1);
      },
    );
    const counted = reshape(batch.counted, [-1, 1]);
    const parts = sum(mul(both, counted), 0);
    const unlike = cosineEmbeddingLoss(student, teacher, undefined, { reduction: "none" });
    const hidden = sum(mul(unlike, reshape(batch.counted, [-1])));
    const [soft, hard] = [parts.select(0, 0), parts.select(0, 1)];
    const all = add(add(mul(soft, soft_weight), mul(hard, hard_weight)), mul(hidden, hidden_weight));
    return [all, soft, hard, hidden];
  }
}

type Context = Omit<TokenBatch, "dropoutKey"> & { dropout?: PassDropout | undefined };

const hiddenOf = (model: CausalLM | Encoder, batch: Context): Tensor =>
  model instanceof CausalLM ? model.hidden(batch.tokens, batch) : model.hidden(batch);

const logitsOf = (model: CausalLM | Encoder, rows: Tensor): Tensor =>
  model instanceof CausalLM ? model.logits(rows) : model.headLogits(rows);

/**
 * The triple loss of a text classifier: the student follows the teacher's probabilities of the labels (each by itself, where a
 * text may have several), the texts' own labels, and the direction of the hidden state that decides. Of several teachers the
 * logits are averaged (Hinton et al. 2015), and the hidden state is the first one's.
 */
export class ClassifierDistilObjective {
  readonly #student: Encoder;
  readonly #teachers: readonly Encoder[];
  readonly #options: DistilOptions;

  constructor(student: Encoder, teachers: readonly Encoder[], options: DistilOptions) {
    this.#student = student;
    this.#teachers = teachers;
    this.#options = options;
  }

  /** The weighted sum of the losses over the texts, f32 []. */
  loss({ labels, dropoutKey, ...batch }: TextInputs & Pick<EncoderBatch, "dropoutKey">): Tensor {
    const { temperature, divergence: kind, soft_weight, hard_weight, hidden_weight } = this.#options;
    const student = this.#student;
    const dropout = dropoutKey && new PassDropout(dropoutKey, student.dropoutRates);
    const own = student.readHidden({ ...batch, dropout }); // [R, hidden]
    const [first, ...others] = this.#teachers;
    const other = noGrad(() => first.readHidden(batch));
    const said = student.headLogits(own, { dropout }); // [R, labels]
    const taught = noGrad(() => {
      const heard = others.map((teacher) => teacher.headLogits(teacher.readHidden(batch)));
      return mul([first.headLogits(other), ...heard].reduce(add), 1 / this.#teachers.length);
    });
    const isSeveral = labels.dtype === "f32";
    // A label by itself is a choice between its logit and 0.
    const choice = (x: Tensor) => (isSeveral ? stack([x, mul(x, 0)], 2) : reshape(x, [-1, 1, x.shape[1]]));
    const [p, q] = kind === "forward" ? [taught, said] : [said, taught];
    const soft = sum(divergence(choice(p), choice(q), temperature), -1); // [R]
    const unlike = cosineEmbeddingLoss(own, other, undefined, { reduction: "none" }); // [R]
    const followed = add(mul(soft, soft_weight), mul(unlike, hidden_weight));
    const label = narrow(reshape(labels, [said.shape[0], -1]), 1, 0, 1); // [R, 1]
    const counted = where(ne(reshape(label, [-1]), IGNORE), followed, 0);
    const hard = headLoss(student.task, student.config.problem_type, said, labels);
    return add(sum(counted), mul(hard, hard_weight));
  }
}
