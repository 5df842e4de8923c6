export {
  type ChatExample,
  chatBatch,
  chatBatches,
  packExamples,
  type ReadChat,
  readChatData,
  readChats,
} from "./chat_rows.ts";
export { type LabelledOptions, type LabelledText, readLabelled } from "./labelled.ts";
export {
  classWeights,
  type LabelSplit,
  labelIds,
  labelWeights,
  orderLabels,
  stratifiedSplit,
} from "./labels.ts";
export { maskTokens } from "./masking.ts";
export {
  type Batch,
  IGNORE,
  PackedBatches,
  type PackingOptions,
  validationBatches,
} from "./packing.ts";
export { pairBatch, pairBatches, readPairs } from "./preference_rows.ts";
export {
  type DocumentSource,
  fileSource,
  type ReadOptions,
  readDocuments,
  storySource,
  type TextPart,
} from "./readers.ts";
export { type DataCursor, ShuffledBatches } from "./row_order.ts";
export { spreadSample } from "./sample.ts";
export {
  cachedShard,
  openShard,
  type ShardHeader,
  type Span,
  type TokenReader,
  type TokenShard,
  writeShard,
} from "./shards.ts";
export { countTokens, splitDocuments, splitExamples } from "./split.ts";
export { story, storyChat, storyCorpus } from "./stories/grammar.ts";
export {
  findColumn,
  readTable,
  type Table,
  type TableFormat,
  type TableOptions,
  type TableRow,
} from "./table.ts";
