export {
  type Change,
  type CleanedText,
  type CleanOptions,
  cleanModes,
  cleanText,
} from "./clean.ts";
export { languageTeller, type TellLanguage } from "./language.ts";
export { forEachNearPair, jaccard, shinglesOf, starsOf } from "./near_duplicates.ts";
export { wordsOf } from "./normalise.ts";
export { distinctWords, isEcho, isRefusal, repetition, symbolShare } from "./quality.ts";
export { privateKinds } from "./redact.ts";
