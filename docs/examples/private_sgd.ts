// Learning from people without telling on them: DP-SGD (Abadi et al. 2016) clips what each person changes and adds noise, and an
// accountant says how much of anybody could leak (epsilon at delta). Run it with `npx tsx docs/examples/private_sgd.ts`.
import {
  argmax,
  matmul,
  minimum,
  noGrad,
  oneHot,
  openDevice,
  randn,
  softmax,
  sqrt,
  type Tensor,
  tensor,
} from "kiln";

interface Plan {
  /** The chance of each person to be in a step. */
  rate: number;
  /** Standard deviation of the noise, in clipping norms. */
  noise: number;
  steps: number;
  delta: number;
}

/**
 * The epsilon of so many steps: the Renyi divergence of one step of the sampled Gaussian mechanism for whole orders (Mironov, Talwar
 * and Zhang 2019), added up, and turned to (epsilon, delta) by the best order (Mironov 2017).
 */
function epsilon({ rate, noise, steps, delta }: Plan): number {
  const orders = Array.from({ length: 255 }, (_, i) => i + 2);
  const each = orders.map((order) => {
    const logs: number[] = [];
    let logChoose = 0;
    for (let k = 0; k <= order; k++) {
      if (k > 0) logChoose += Math.log((order - k + 1) / k);
      const sampled = (order - k) * Math.log1p(-rate) + k * Math.log(rate);
      logs.push(logChoose + sampled + (k * (k - 1)) / (2 * noise ** 2));
    }
    const top = Math.max(...logs);
    const divergence =
      (top + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - top), 0))) / (order - 1);
    return steps * divergence + Math.log(1 / delta) / (order - 1);
  });
  return Math.min(...each);
}

// What others have published for the same plans.
const published = [
  {
    of: "Abadi et al. 2016, section 3",
    plan: { rate: 0.01, noise: 4, steps: 10_000, delta: 1e-5 },
    says: 1.26,
  },
  {
    of: "TensorFlow Privacy, MNIST",
    plan: { rate: 256 / 60_000, noise: 1.1, steps: 14_062, delta: 1e-5 },
    says: 3.01,
  },
];
for (const { of, plan, says } of published)
  console.log(`${of}: published ${says}, epsilon ${epsilon(plan).toFixed(3)}`);

await openDevice();
const [people, features, kinds] = [800, 16, 4];
/** A person's numbers are around those of their kind; a last 1 is for the bias. */
const centres = await randn([kinds, features], 1).data();
const spread = await randn([2 * people, features], 2).data();
const rows = Array.from({ length: 2 * people }, (_, i) => [
  ...Array.from(
    { length: features },
    (_, j) => 0.6 * centres[(i % kinds) * features + j] + spread[i * features + j],
  ),
  1,
]);
const kindOf = Int32Array.from({ length: people }, (_, i) => i % kinds);
const [known, others] = [tensor(rows.slice(0, people)), tensor(rows.slice(people))];
const wanted = oneHot(tensor(kindOf, [people], "i32"), kinds);
const sizes = known.mul(known).sum(1); // [people]

const clip = 1;
const plan: Plan = { rate: 0.1, noise: 2, steps: 150, delta: 1e-3 };
let state = 11;
const chance = () => {
  state = (state * 1664525 + 1013904223) % 2 ** 32;
  return state / 2 ** 32;
};

/** Fits a softmax regression. @returns the share of the others whose kind it tells, and the longest change by one person. */
async function trained(isPrivate: boolean): Promise<{ accuracy: number; longest: number }> {
  let weights: Tensor = tensor(new Float32Array((features + 1) * kinds), [features + 1, kinds]);
  let longest = 0;
  for (let step = 0; step < plan.steps; step++) {
    const chosen = tensor(Float32Array.from({ length: people }, () => Number(chance() < plan.rate)));
    const errors = softmax(matmul(known, weights)).sub(wanted); // [people, kinds]
    // The gradient of person i is the outer product of row and error: its norm is that of one times that of the other.
    const norms = sqrt(errors.mul(errors).sum(1).mul(sizes));
    const factors = isPrivate ? minimum(norms.add(1e-12).reciprocal().mul(clip), 1) : 1;
    const shares = chosen.mul(factors);
    if (isPrivate) longest = Math.max(longest, await norms.mul(shares).max().item());
    const sum = matmul(known.transpose(0, 1), errors.mul(shares.unsqueeze(1)));
    const noise = isPrivate ? randn(sum.shape, 1000 + step).mul(plan.noise * clip) : 0;
    weights = weights.sub(sum.add(noise).mul(1 / (plan.rate * people)));
  }
  const told = await argmax(matmul(others, weights), 1).data();
  return { accuracy: kindOf.filter((kind, i) => Number(told[i]) === kind).length / people, longest };
}

const [open, hidden] = await noGrad(async () => [await trained(false), await trained(true)]);
console.log(`without privacy: accuracy ${open.accuracy.toFixed(3)}`);
console.log(
  `with epsilon ${epsilon(plan).toFixed(2)} at delta ${plan.delta}: accuracy ${hidden.accuracy.toFixed(3)}, no person changes a step by more than ${hidden.longest.toFixed(3)}`,
);
