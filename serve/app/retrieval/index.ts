export {
  checkAnswer,
  neutral,
  promptOf,
  quoted,
  type Source,
  searchQuery,
  sourcesWithin,
} from "./answering.ts";
export { type Block, chunksOf, countTokens, documentText } from "./chunk.ts";
export { type Passage, PassageIndex, selfTest } from "./search.ts";
