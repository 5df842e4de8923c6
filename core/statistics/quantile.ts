/** The smallest number of an ascending list that a share `q` of it does not exceed (nearest rank); 0 of none. */
export const quantile = (sorted: readonly number[], q: number): number =>
  sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? 0;
