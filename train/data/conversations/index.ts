export { logFiles } from "../../../core/platform/append_log.ts";
export { type Dataset, DatasetBuilder, type DatasetReport } from "./builder.ts";
export { DataCleaner, type Dropped, type DropReason, dropReasons, type Filtered } from "./cleaner.ts";
export { type CleanerOptions, type DataConfig, loadDataConfig } from "./config.ts";
export { DataExporter, type Exported, type ExportFormat, exportFormats } from "./exporter.ts";
export {
  type PairMode,
  type PairOptions,
  preferenceRows,
  TrainingDataFormatter,
  type TrainingFormat,
  trainingFormats,
} from "./formatter.ts";
export { type Imported, type ImportedFile, importConversations } from "./importer.ts";
export { ConversationLogger, type LoggerOptions } from "./logger.ts";
export type { ConversationMetadata, ConversationRecord } from "./record.ts";
export { type SplitName, type Splits, splitConversations, splitFraction } from "./splits.ts";
export { type ConversationStatistics, conversationStatistics, type Spread } from "./statistics.ts";
export { TokenizerUtils, type TruncationReport } from "./token_stats.ts";
export { type Fault, type FaultCode, validateConversations } from "./validate.ts";
