import type { Tensor } from "../../core/tensor.ts";
import { add, mul, softplus, square, sub } from "../../kernels/index.ts";

/** `sigmoid_norm` is `sigmoid` on means over a reply's tokens; `ipo` too is one on means, as in TRL. */
const preferenceLossNames = ["sigmoid", "sigmoid_norm", "ipo"] as const;

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
