import type { Tensor } from "../core/tensor.ts";
import { indexSelect, reshape } from "../kernels/index.ts";
import { PassDropout, type RunOptions, type SequenceContext } from "../nn/index.ts";
import { type Head, headLoss } from "./heads.ts";
import { type LabelKeys, labelNames, type Task, taskOf } from "./labels.ts";
import { Model } from "./model.ts";

/** Whole texts as rows of tokens, one or several in a row; see `packTexts`. */
export interface EncoderInput extends SequenceContext, RunOptions {
  /** [B, T] i32. */
  tokens: Tensor;
  /** [B, T] i32: 0 for the first text of a pair, 1 for the second. Absent: all 0. */
  tokenTypes?: Tensor | undefined;
  /**
   * [R] i32: the places (of B * T) of the tokens that the head reads, as the deciding token of each text of a classifier.
   * Absent: all of them.
   */
  rows?: Tensor | undefined;
}

export interface EncoderBatch extends EncoderInput {
  /**
   * What the head should say; -100 is not supervised. Classes i32 [R]; of several labels a text may have, f32 [R, labels] with
   * 0 or 1; numbers f32 [R, 1]; of a span in each row, i32 [B, 2]: the places in the row where it begins and ends.
   */
  labels: Tensor;
  /** f32 [labels]: what a text of each class counts in a cross-entropy. Absent: 1. */
  classWeights?: Tensor | undefined;
  /** u32 [4]: seeds the dropout of this pass; without it nothing is dropped. */
  dropoutKey?: Tensor | undefined;
}

/**
 * A model that reads whole texts, and a head that makes something of each text or token. Which head it is follows from the
 * class that config.json names.
 */
export abstract class Encoder extends Model<EncoderBatch> {
  abstract override readonly config: { readonly model_type: string; pad_token_id: number | null } & LabelKeys;
  /** Null of a model whose hidden states are the result. */
  protected abstract readonly head: Head | null;
  /** Which token of a text its class is read from. */
  abstract readonly decidingToken: "first" | "last";
  /** Hidden states [B, T, hidden_size]; `each` sees the input of every block and the result. */
  abstract hidden(input: EncoderInput, each?: (x: Tensor) => void): Tensor;

  /** The token that fills rows. */
  get padId(): number {
    return this.config.pad_token_id ?? 0;
  }

  get task(): Task {
    return taskOf(this.config);
  }

  /** Names of the labels, in the order of the logits. */
  get labels(): string[] {
    return labelNames(this.config);
  }

  /** Positions of a text's tokens, for `EncoderInput.positions`. */
  positionsOf(ids: ArrayLike<number>): number[] {
    return Array.from(ids, (_, i) => i);
  }

  /** What the head says, f32 [R, labels, vocabulary or 2]; of a model without one, hidden states [R, hidden_size]. `each`: see `hidden`. */
  logits(input: EncoderInput, each?: (x: Tensor) => void): Tensor {
    const { batchInvariant = false, dropout } = input;
    return this.headLogits(this.readHidden(input, each), { batchInvariant, dropout });
  }

  /** The hidden states that the head reads, [R, hidden_size]. */
  readHidden(input: EncoderInput, each?: (x: Tensor) => void): Tensor {
    const hidden = this.hidden(input, each);
    const flat = reshape(hidden, [-1, hidden.shape[2]]); // [B * T, hidden]
    return input.rows ? indexSelect(flat, 0, input.rows) : flat;
  }

  /** What the head says of hidden states [R, hidden_size]; without a head, these. */
  headLogits(hidden: Tensor, run: RunOptions = {}): Tensor {
    return this.head?.logits(hidden, run) ?? hidden;
  }

  /**
   * The sum of the losses of the supervised labels: cross-entropies, of several labels a text may have binary ones, of numbers
   * squared errors, and of a span half of each end's.
   */
  loss({ labels, classWeights, dropoutKey, ...input }: EncoderBatch): Tensor {
    const dropout = dropoutKey && new PassDropout(dropoutKey, this.dropoutRates);
    const logits = this.logits({ ...input, dropout });
    return headLoss(this.task, this.config.problem_type, logits, labels, classWeights);
  }
}
