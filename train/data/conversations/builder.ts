import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { stringify } from "yaml";
import type { z } from "zod";
import { KilnError, usageError } from "../../../core/errors.ts";
import { logFiles } from "../../../core/platform/append_log.ts";
import { atomicWriteDirectory } from "../../../core/platform/files.ts";
import type { Row } from "../../../tokenizer/index.ts";
import { DataCleaner, type Dropped, type DropReason, dropReasons } from "./cleaner.ts";
import { type DataConfig, dataConfig, type dataSettings } from "./config.ts";
import { jsonLines } from "./exporter.ts";
import { TrainingDataFormatter } from "./formatter.ts";
import { type Imported, type ImportedFile, importConversations } from "./importer.ts";
import { type ConversationRecord, corrected, countsOf, sha256 } from "./record.ts";
import { type SplitName, type Splits, splitConversations, splitNames } from "./splits.ts";
import {
  byRole,
  type ConversationStatistics,
  conversationStatistics,
  type Spread,
  spreadOf,
} from "./statistics.ts";
import { TokenizerUtils, type TruncationReport, truncationOf } from "./token_stats.ts";

/** `report.json` of a dataset. `read` is `kept` and all of `invalid` and `dropped` together. */
export interface DatasetReport {
  kiln: string;
  config: Pick<DataConfig, "map" | "clean" | "quality" | "dedupe" | "split" | "format" | "tokenizer">;
  sources: ImportedFile[];
  counts: { read: number; invalid: number; dropped: number; kept: number };
  /** Rows that are no sound conversation, by fault. */
  invalid: Record<string, number>;
  dropped: Partial<Record<DropReason, number>>;
  splits: Record<SplitName, { conversations: number; rows: number; sha256: string }>;
  /** Conversations that the format cannot hold. */
  skipped: { id: string; why: string }[];
  statistics: ConversationStatistics;
  tokens: { per_role: Record<string, Spread>; truncation: TruncationReport } | null;
  warnings: string[];
}

/** A dataset in memory. */
export interface Dataset {
  splits: Splits;
  rows: Record<SplitName, Row[]>;
  dropped: Dropped[];
  skipped: { id: string; why: string }[];
  warnings: string[];
}

/** Cleans, splits and formats conversations. */
export class DatasetBuilder {
  readonly config: DataConfig;

  /** @throws KilnError for a setting that does not exist or cannot be used. */
  constructor(config: z.input<typeof dataSettings.schema> = {}) {
    this.config = dataConfig(config);
  }

  /** The dataset, without writing it. The order of the list decides nothing. */
  async assemble(list: readonly ConversationRecord[]): Promise<Dataset> {
    const { clean, quality, dedupe } = this.config;
    const against = dedupe.against.length === 0 ? [] : (await importConversations(dedupe.against)).records;
    const cleaner = new DataCleaner({ ...clean, ...quality, ...dedupe });
    const { kept, dropped } = await cleaner.filterConversations(list.map(corrected), { against });
    return { ...this.splitAndFormat(kept), dropped };
  }

  /** The last two steps of `assemble`, of conversations that are clean. */
  splitAndFormat(kept: readonly ConversationRecord[]): Omit<Dataset, "dropped"> {
    const { dedupe, split, format } = this.config;
    const skipped: Dataset["skipped"] = [];
    const warnings: string[] = [];
    const splits = splitConversations(kept, split, {
      // Where duplicates were dropped, none is left.
      near: dedupe.keep === "all" || !dedupe.exact ? dedupe.near : null,
      warn: (line) => warnings.push(line),
    });
    const formatter = new TrainingDataFormatter(format.name);
    const options = { mode: format.mode, skip: (id: string, why: string) => skipped.push({ id, why }) };
    const rows = Object.fromEntries(
      splitNames.map((name) => [name, formatter.createTrainingPairs(splits[name], options)]),
    ) as Dataset["rows"];
    return { splits, rows, skipped, warnings };
  }

  /**
   * Writes `train.jsonl`, `val.jsonl`, `test.jsonl`, `dropped.jsonl` (what was left out and why), `report.json` and, where a base
   * model is set, `sft.yaml` for `kiln train sft` into a folder, which it replaces as a whole. The same conversations and settings
   * give the same bytes, whatever the order of the files.
   * @throws KilnError where nothing is left, or the folder holds something else.
   */
  async build(given: readonly ConversationRecord[] | Imported, folder: string): Promise<DatasetReport> {
    const imported: Imported = "records" in given ? given : { records: [...given], faults: [], files: [] };
    const dataset = await this.assemble(imported.records);
    const kept = splitNames.flatMap((name) => dataset.splits[name]);
    if (kept.length === 0) {
      const counts = Object.entries(
        countsOf(
          dataset.dropped.map(({ reason }) => reason),
          dropReasons,
        ),
      );
      const why = counts.map(([reason, count]) => `${reason} ${count}`).join(", ");
      throw new KilnError(
        `no conversation is left of ${imported.records.length}${why && `: dropped as ${why}; change quality or dedupe`}`,
        { code: "corpus_empty" },
      );
    }
    const files = Object.fromEntries(
      splitNames.map((name) => [name, jsonLines(dataset.rows[name])]),
    ) as Record<SplitName, { data: string; rows: number }>;
    const report = await this.#report(imported, dataset, kept, files);
    assertDataset(folder);
    await atomicWriteDirectory(folder, async (into) => {
      for (const name of splitNames) await writeFile(join(into, `${name}.jsonl`), files[name].data);
      const dropped = [...dataset.dropped].sort((a, b) =>
        a.id < b.id ? -1 : a.id > b.id ? 1 : a.reason < b.reason ? -1 : 1,
      );
      await writeFile(join(into, "dropped.jsonl"), jsonLines(dropped).data);
      await writeFile(join(into, "report.json"), `${JSON.stringify(report, null, 2)}\n`);
      const sft = this.#sft(files.val.rows > 0);
      if (sft !== null) await writeFile(join(into, "sft.yaml"), sft);
    });
    return report;
  }

  async #report(
    { records, faults, files: sources }: Imported,
    { dropped, splits, skipped, warnings }: Dataset,
    kept: readonly ConversationRecord[],
    files: Record<SplitName, { data: string; rows: number }>,
  ): Promise<DatasetReport> {
    const invalid = new Map(faults.map((fault) => [`${fault.file}\0${fault.row}`, fault.code]));
    const { map, clean, quality, dedupe, split, format, tokenizer } = this.config;
    // Where files and models lie says nothing of the dataset.
    const config = {
      ...{ map, clean, split, format },
      quality: { ...quality, toxic_model: basename(quality.toxic_model) },
      dedupe: { ...dedupe, against: dedupe.against.map((path) => basename(path)).sort() },
      tokenizer: { ...tokenizer, path: tokenizer.path && basename(tokenizer.path) },
    };
    const { packageVersion } = await import("../../../core/platform/package_node.ts");
    return {
      kiln: packageVersion(),
      config,
      sources: [...sources].sort((a, b) =>
        a.sha256 < b.sha256 ? -1 : a.sha256 > b.sha256 ? 1 : a.name < b.name ? -1 : 1,
      ),
      counts: {
        read: records.length + invalid.size,
        invalid: invalid.size,
        dropped: dropped.length,
        kept: kept.length,
      },
      invalid: countsOf([...invalid.values()].sort()),
      dropped: countsOf(
        dropped.map(({ reason }) => reason),
        dropReasons,
      ),
      splits: Object.fromEntries(
        splitNames.map((name) => [
          name,
          { conversations: splits[name].length, rows: files[name].rows, sha256: sha256(files[name].data) },
        ]),
      ) as DatasetReport["splits"],
      skipped,
      statistics: conversationStatistics(kept, { near: dedupe.near }),
      tokens: await this.#tokens(kept),
      warnings: warnings.sort(),
    };
  }

  async #tokens(kept: readonly ConversationRecord[]): Promise<DatasetReport["tokens"]> {
    const { path, context } = this.config.tokenizer;
    if (path === undefined) return null;
    const utils = TokenizerUtils.load(path);
    const perRole: Record<string, Spread> = {};
    for (const [role, texts] of byRole(kept, (text) => text))
      perRole[role] = spreadOf(await utils.counts(texts));
    const whole = await utils.counts(
      kept.map(({ messages }) => messages.map(({ content }) => content).join("\n")),
    );
    return { per_role: perRole, truncation: truncationOf(whole, context) };
  }

  /** Settings of a run on this dataset; its paths are relative to the folder. */
  #sft(hasValidation: boolean): string | null {
    const { base, method, rank, alpha, dropout, learning_rate, batch, epochs, sequence_length } =
      this.config.training;
    if (base === undefined) return null;
    const { prompts } = this.config.evaluation;
    return stringify({
      model: { init_from: existsSync(base) ? resolve(base) : base },
      data: { path: ["train.jsonl"], ...(hasValidation ? { validation_path: ["val.jsonl"] } : {}) },
      ...(method !== "full" && { adapter: { kind: method, rank, alpha, dropout } }),
      train: { learning_rate, batch_size: batch, epochs, sequence_length },
      ...(prompts.length > 0 && { sample: { prompts } }),
    });
  }
}

/** A folder is replaced as a whole: one that is no dataset stays. */
function assertDataset(folder: string): void {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return;
  }
  if (names.length > 0 && !names.includes("report.json"))
    throw new KilnError(`${folder} holds something else than a dataset; give another --out`, {
      code: "folder_taken",
    });
}

/** The conversations of the sources of a configuration, its log included. Throws a KilnError where none is named. */
export async function configuredConversations(
  { sources = [], logger, map }: DataConfig,
  say?: (line: string) => void,
): Promise<Imported> {
  const paths = [...sources, ...(logger.path === undefined ? [] : logFiles(logger.path))];
  if (paths.length === 0)
    throw usageError("no conversations are named: give sources in the YAML, or files after it");
  return importConversations(paths, { map, say });
}
