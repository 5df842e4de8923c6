export {
  CitationFilter,
  checkAnswer,
  neutral,
  promptOf,
  quoted,
  type Source,
  searchQuery,
  sourcesWithin,
} from "./answering.ts";
export { type Block, type Chunk, chunksOf, countTokens, documentText } from "./chunk.ts";
export { type Encode, type Passage, PassageIndex, type Ranker, type Stages, selfTest } from "./search.ts";
