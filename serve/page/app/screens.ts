// One file for the browser to fetch: the screens share most of what they are made of.
export { Analytics } from "./analytics.tsx";
export { Compare } from "./compare.tsx";
export { Data } from "./data.tsx";
export { Documents } from "./documents.tsx";
export { Experiments } from "./experiments.tsx";
export { FineTune } from "./fine_tune.tsx";
export { Models } from "./models.tsx";
export { Settings } from "./settings.tsx";
