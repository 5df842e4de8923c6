import { grads } from "../../core/autograd.ts";
import { dispose, scope } from "../../core/scope.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { mean } from "../../kernels/index.ts";
import { type PreferenceLossOptions, preferenceLoss } from "../../train/losses/preference.ts";
import { compare, type Report, worst } from "./report.ts";

type Side = "chosen" | "rejected";

/** Log-probabilities of replies, and losses of them in float64; gradients are those of the mean loss. */
export type PreferenceFile = Record<`${"policy" | "reference"}_${Side}`, number[]> & {
  cases: (PreferenceLossOptions & { losses: number[]; mean: number } & Record<
      `${Side}_rewards` | `grad_${Side}`,
      number[]
    >)[];
};

export function isPreferenceFile(json: unknown): json is PreferenceFile {
  return Array.isArray((json as Partial<PreferenceFile> | null)?.policy_chosen);
}

/** Inputs of some 20 have an f32 error of 1e-6, and of larger losses as much again of their size. */
const near = { atol: 1e-6, rtol: 1e-6 };

export async function verifyPreference(report: Report, prefix: string, file: PreferenceFile): Promise<void> {
  for (const { losses, mean: meanLoss, ...one } of file.cases) {
    await report.check(`${prefix}/${one.loss}_${one.beta}`, async () => {
      const made: Record<string, Tensor> = scope(() => {
        const leaf = (values: number[]) => Object.assign(tensor(values), { requiresGrad: true });
        const policy = { chosen: leaf(file.policy_chosen), rejected: leaf(file.policy_rejected) };
        const reference = {
          chosen: tensor(file.reference_chosen),
          rejected: tensor(file.reference_rejected),
        };
        const { losses: got, rewards } = preferenceLoss(policy, reference, one);
        const whole = mean(got);
        const [chosen, rejected] = grads(whole, [policy.chosen, policy.rejected]);
        const own = { losses: got, mean: whole, grad_chosen: chosen!, grad_rejected: rejected! };
        return { ...own, chosen_rewards: rewards.chosen, rejected_rewards: rewards.rejected };
      });
      const want: Record<string, unknown> = { ...one, losses, mean: [meanLoss] };
      const comparisons = [];
      for (const [name, got] of Object.entries(made))
        comparisons.push(compare(await got.data(), want[name] as number[], near, name));
      dispose(made);
      return worst(comparisons);
    });
  }
}
