import { noGrad } from "../../core/tape.ts";
import type { Tensor } from "../../core/tensor.ts";
import {
  add,
  cast,
  clamp,
  div,
  gt,
  mul,
  narrow,
  ne,
  softplus,
  square,
  stack,
  sub,
  sum,
} from "../../kernels/index.ts";
import type { CausalLM } from "../../models/decoder.ts";
import type { TokenBatch } from "../../models/model.ts";
import { withoutAdapters } from "../../nn/index.ts";

/** `sigmoid_norm` is `sigmoid` on means over a reply's tokens; `ipo` too is one on means, as in TRL. */
export const preferenceLossNames = ["sigmoid", "sigmoid_norm", "ipo"] as const;

export interface PreferenceLossOptions {
  loss: (typeof preferenceLossNames)[number];
  /** How closely the model is held to the reference: larger is closer. */
  beta: number;
  /** The share of pairs whose order is assumed to be wrong; not for `ipo`. */
  label_smoothing: number;
}

/** What a model gives to B pairs of replies, f32 [B]. */
interface OfPairs {
  chosen: Tensor;
  rejected: Tensor;
}

/**
 * Losses of pairs, f32 [B], from log-probabilities of their replies: sums over tokens, or means. The rewards are
 * beta (log p - log p_ref), and with d their difference, chosen - rejected, the loss is
 * -(1 - label_smoothing) log sigmoid(d) - label_smoothing log sigmoid(-d) (DPO, Rafailov et al. 2023, as TRL), or
 * (d / beta - 1 / (2 beta))^2 (IPO, Azar et al. 2023).
 */
export function preferenceLoss(
  policy: OfPairs,
  reference: OfPairs,
  { loss, beta, label_smoothing: smoothing }: PreferenceLossOptions,
): { losses: Tensor; rewards: OfPairs } {
  const ratios = {
    chosen: sub(policy.chosen, reference.chosen),
    rejected: sub(policy.rejected, reference.rejected),
  };
  const difference = sub(ratios.chosen, ratios.rejected);
  const logit = mul(difference, beta);
  const losses =
    loss === "ipo"
      ? square(sub(difference, 1 / (2 * beta)))
      : add(mul(softplus(mul(logit, -1)), 1 - smoothing), mul(softplus(logit), smoothing));
  return { losses, rewards: { chosen: mul(ratios.chosen, beta), rejected: mul(ratios.rejected, beta) } };
}

export interface PreferenceOptions extends PreferenceLossOptions {
  /** What the mean cross-entropy of the chosen reply's tokens counts beside the loss (`rpo_alpha` of TRL). */
  sft_weight: number;
}

/** What is logged, as TRL calls it: means over pairs. */
export const pairMetrics = [
  "validation_loss",
  "rewards_chosen",
  "rewards_rejected",
  "rewards_margins",
  "rewards_accuracies",
  "logps_chosen",
  "logps_rejected",
] as const;

/** A model that learns to prefer replies, beside the reference that it started from, which stays as it is. */
export class PreferenceObjective {
  readonly #model: CausalLM;
  readonly #reference: CausalLM | null;
  readonly #options: PreferenceOptions;

  /** Without a reference it is the model without its adapter, as in TRL. */
  constructor(model: CausalLM, reference: CausalLM | null, options: PreferenceOptions) {
    this.#model = model;
    this.#reference = reference;
    this.#options = options;
  }

  /** The sum of the losses of a batch of `pairBatch`, f32 []. */
  loss(batch: TokenBatch): Tensor {
    return sum(this.#measure(batch).losses);
  }

  /** The sums over the pairs of a batch of what `pairMetrics` names, f32 [7]. */
  metrics(batch: TokenBatch): Tensor {
    const { losses, rewards, policy, real } = this.#measure(batch);
    const margins = sub(rewards.chosen, rewards.rejected);
    const right = mul(cast(gt(margins, 0), "f32"), real);
    const all = [losses, rewards.chosen, rewards.rejected, margins, right, policy.chosen, policy.rejected];
    return stack(all.map((values) => sum(values)));
  }

  #measure(batch: TokenBatch) {
    const { loss, sft_weight } = this.#options;
    const counts = sum(cast(ne(batch.targets, -100), "f32"), 1); // [2 B]
    const { dropoutKey: _, ...plain } = batch;
    const read = (model: CausalLM, inputs: TokenBatch) => sidesOf(model.tokenLosses(inputs), counts);
    const [model, frozen] = [this.#model, this.#reference];
    const reference = noGrad(() =>
      frozen ? read(frozen, plain) : withoutAdapters(() => read(model, plain)),
    );
    const policy = read(model, batch);
    const compared = loss === "sigmoid" ? "sums" : "means";
    const { losses, rewards } = preferenceLoss(policy[compared], reference[compared], this.#options);
    const real = cast(gt(halves(counts).chosen, 0), "f32");
    const mixed = sft_weight > 0 ? sub(losses, mul(policy.means.chosen, sft_weight)) : losses;
    return { losses: mul(mixed, real), rewards, policy: policy.sums, real };
  }
}

/** The two sides of values [2 B] of a batch of pairs. */
function halves(values: Tensor): OfPairs {
  const pairs = values.size / 2;
  return { chosen: narrow(values, 0, 0, pairs), rejected: narrow(values, 0, pairs, pairs) };
}

/** Log-probabilities of replies: sums over their tokens, and means. */
function sidesOf(tokenLosses: Tensor, counts: Tensor): { sums: OfPairs; means: OfPairs } {
  const sums = mul(sum(tokenLosses, 1), -1);
  return { sums: halves(sums), means: halves(div(sums, clamp(counts, 1))) };
}
