/** How likely each class is. */
export type Probabilities = readonly number[];

/** Probabilities of a text, and the class that it has. */
export interface Labelled {
  readonly probabilities: Probabilities;
  readonly label: number;
}

const FLOOR = 1e-12;

function normalised(values: readonly number[]): number[] {
  const sum = values.reduce((a, b) => a + b, 0);
  return values.map((value) => value / sum);
}

/** Logarithms of probabilities at another temperature (Guo et al. 2017): above 1 less certain, below 1 more so, in the same order. */
function logsAt(probabilities: Probabilities, temperature: number): number[] {
  const logs = probabilities.map((p) => Math.log(Math.max(p, FLOOR)) / temperature);
  const most = Math.max(...logs);
  const sum = most + Math.log(logs.reduce((total, log) => total + Math.exp(log - most), 0));
  return logs.map((log) => log - sum);
}

export const atTemperature = (probabilities: Probabilities, temperature: number): number[] =>
  logsAt(probabilities, temperature).map(Math.exp);

/** The mean of -ln of the probability that each right class gets. */
export const negativeLogLikelihood = (rows: readonly Labelled[], temperature = 1): number =>
  rows.reduce((sum, { probabilities, label }) => sum - logsAt(probabilities, temperature)[label]!, 0) /
  rows.length;

/** The temperature with the lowest negative log likelihood: it is convex in 1 / T, so halving by the golden section finds it. */
export function fitTemperature(rows: readonly Labelled[]): { temperature: number; nll: number } {
  const golden = (Math.sqrt(5) - 1) / 2;
  const at = (inverse: number) => negativeLogLikelihood(rows, 1 / inverse);
  let [low, high] = [1 / 20, 20];
  let [left, right] = [high - golden * (high - low), low + golden * (high - low)];
  let [atLeft, atRight] = [at(left), at(right)];
  while (high - low > 1e-4) {
    if (atLeft <= atRight) {
      [high, right, atRight] = [right, left, atLeft];
      left = high - golden * (high - low);
      atLeft = at(left);
    } else {
      [low, left, atLeft] = [left, right, atRight];
      right = low + golden * (high - low);
      atRight = at(right);
    }
  }
  const temperature = 2 / (low + high);
  return { temperature, nll: negativeLogLikelihood(rows, temperature) };
}

/** Weights that sum to 1, in proportion to the likelihood that each member gave to the right classes. */
export const weightsOf = (nlls: readonly number[]): number[] =>
  normalised(nlls.map((nll) => Math.exp(Math.min(...nlls) - nll)));

/** The weighted mean of what the members hold for likely. */
export const softVote = (members: readonly Probabilities[], weights: readonly number[]): number[] =>
  members[0]!.map((_, label) =>
    members.reduce((sum, probabilities, i) => sum + weights[i]! * probabilities[label]!, 0),
  );

export const likeliest = (probabilities: Probabilities): number =>
  probabilities.indexOf(Math.max(...probabilities));

/**
 * Each member has one vote. Of classes with as many, the one with the higher soft vote wins, of equal ones the first: as shares
 * of the votes and the soft vote together, of which the largest is the winner's.
 */
export function hardVote(members: readonly Probabilities[], weights: readonly number[]): number[] {
  const votes = softVote(members, weights);
  for (const probabilities of members) votes[likeliest(probabilities)]! += 1;
  return votes.map((vote) => vote / (members.length + 1));
}
