export { argmax, argmin } from "./arg.ts";
export { cumsum } from "./cumsum.ts";
export { amax, amin, prod } from "./extremes.ts";
export { sort, topk } from "./sort.ts";
export { logsumexp, mean, variance } from "./statistics.ts";
export { normalizeDims, sum, sumTo } from "./sum.ts";
