export { argmax, argmin } from "./arg.ts";
export { all, any, countNonzero, cumprod, median, type NormOrder, norm, std } from "./composed.ts";
export { cumsum } from "./cumsum.ts";
export { amax, amin, prod } from "./extremes.ts";
export { sort, topk } from "./sort.ts";
export { logsumexp, mean, variance, variance as var } from "./statistics.ts";
export { sum, sumTo } from "./sum.ts";
