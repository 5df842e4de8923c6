/** Coefficients of Lanczos' approximation with g = 7 (Godfrey), good to 15 digits. */
const lanczos = [
  ...[0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059],
  ...[12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7],
];

/** Logarithm of the gamma function for x > 0. */
function logGamma(x: number): number {
  const base = x + 6.5;
  const sum = lanczos.reduce((total, c, i) => total + (i === 0 ? c : c / (x - 1 + i)), 0);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(base) - base + Math.log(sum);
}

/** Logarithm of the binomial coefficient "n choose k". */
export function logChoose(n: number, k: number): number {
  return logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1);
}

/**
 * The regularised incomplete beta function I_x(a, b), by its continued fraction and Lentz's method (Press et al., Numerical
 * Recipes, 6.4).
 */
function incompleteBeta(a: number, b: number, x: number): number {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
  const logFront =
    logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x) - Math.log(a);
  const away = (value: number) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m <= 10_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    let factor = 1;
    for (const term of [even, odd]) {
      d = 1 / away(1 + term * d);
      c = away(1 + term / c);
      factor = c * d;
      fraction *= factor;
    }
    if (Math.abs(factor - 1) < 1e-16) break;
  }
  return Math.exp(logFront) * fraction;
}

/** Two-sided p-value of `t` under Student's t-distribution with `df` degrees of freedom. */
export function studentTwoSided(t: number, df: number): number {
  return incompleteBeta(df / 2, 0.5, df / (df + t * t));
}

/** Two-sided p-value of `z` under the standard normal distribution. */
export function normalTwoSided(z: number): number {
  const x = (z * z) / 2;
  if (x < 3) {
    // erf by a series of positive terms, which never cancel.
    let term = Math.sqrt(x);
    let sum = term;
    for (let n = 1; term > 1e-17 * sum; n++) {
      term *= (2 * x) / (2 * n + 1);
      sum += term;
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x) * sum;
  }
  // erfc by its continued fraction, evaluated from the innermost term.
  let fraction = 0;
  for (let k = 120; k >= 1; k--) fraction = k / 2 / (Math.sqrt(x) + fraction);
  return Math.exp(-x) / Math.sqrt(Math.PI) / (Math.sqrt(x) + fraction);
}

/** The z for which a standard normal variable lies in [-z, z] with probability `confidence`. */
export function normalQuantile(confidence: number): number {
  let [low, high] = [0, 40];
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (normalTwoSided(middle) > 1 - confidence) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Two-sided p-value of `k` successes in `n` trials with probability one half, for k <= n / 2. */
export function binomialTwoSided(k: number, n: number): number {
  let sum = 0;
  for (let i = 0; i <= k; i++) sum += Math.exp(logChoose(n, i) - n * Math.LN2);
  return Math.min(1, 2 * sum);
}
