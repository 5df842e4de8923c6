import { join } from "node:path";
import { usageError } from "../../../core/errors.ts";
import { atomicWriteFile } from "../../../core/platform/files.ts";
import { preferenceRows, TrainingDataFormatter } from "./formatter.ts";
import { type ConversationRecord, sha256 } from "./record.ts";

/** File formats of conversations, with the name of the file. */
const fileNames = {
  json: "conversations.json",
  jsonl: "conversations.jsonl",
  csv: "conversations.csv",
  chatml: "chatml.jsonl",
  alpaca: "alpaca.jsonl",
  instruction: "instruction.jsonl",
  sharegpt: "sharegpt.jsonl",
  openai: "openai.jsonl",
  parquet: "conversations.parquet",
  preference: "preference.jsonl",
} as const;

export type ExportFormat = keyof typeof fileNames;
export const exportFormats = Object.keys(fileNames) as ExportFormat[];

/** A file that was written. */
export interface Exported {
  path: string;
  rows: number;
  sha256: string;
  /** Conversations that the format cannot hold, and why. */
  skipped: { id: string; why: string }[];
}

const columns = ["conversation_id", "turn", "role", "content", "session_id", "model", "rating", "created_at"];

/** A field of RFC 4180. Spreadsheets would run a text that begins a formula. */
function cell(value: unknown): string {
  if (typeof value === "number") return String(value);
  const text = value === undefined || value === null ? "" : String(value);
  const harmless = /^'*[=+\-@]/.test(text) ? `'${text}` : text;
  return /[",\r\n]|^\s|\s$/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

/** Conversations as CSV, a turn a line. Other fields of messages and metadata than those of `columns` have no place in it. */
function toCsv(list: readonly ConversationRecord[]): string {
  const lines = list.flatMap(({ id, messages, metadata }) =>
    messages.map(({ role, content }, turn) =>
      [id, turn, role, content, metadata.session_id, metadata.model, metadata.rating, metadata.created_at]
        .map(cell)
        .join(","),
    ),
  );
  return `${[columns.join(","), ...lines].join("\n")}\n`;
}

async function toParquet(list: readonly ConversationRecord[]): Promise<Uint8Array> {
  const { parquetWriteBuffer } = await import("hyparquet-writer");
  const time = (value: unknown) =>
    typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : null;
  const bytes = parquetWriteBuffer({
    columnData: [
      { name: "id", data: list.map(({ id }) => id), type: "STRING" },
      { name: "messages", data: list.map(({ messages }) => JSON.stringify(messages)), type: "STRING" },
      { name: "n_turns", data: list.map(({ messages }) => messages.length), type: "INT32" },
      {
        name: "rating",
        data: list.map(({ metadata }) => metadata.rating ?? null),
        type: "INT32",
        nullable: true,
      },
      {
        name: "created_at",
        data: list.map(({ metadata }) => time(metadata.created_at)),
        type: "INT64",
        nullable: true,
      },
    ],
  });
  return new Uint8Array(bytes);
}

/** Writes conversations as files for other programs. */
export class DataExporter {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Writes each format (default: all) and says what was written. Throws a KilnError for a format that does not exist, or a full disk. */
  async exportAllFormats(
    list: readonly ConversationRecord[],
    formats: readonly ExportFormat[] = exportFormats,
  ): Promise<Partial<Record<ExportFormat, Exported>>> {
    const written: Partial<Record<ExportFormat, Exported>> = {};
    for (const format of formats) written[format] = await this.export(list, format);
    return written;
  }

  /** `exportAllFormats` of one. */
  async export(list: readonly ConversationRecord[], format: ExportFormat): Promise<Exported> {
    if (!exportFormats.includes(format))
      throw usageError(`there is no format ${format}; there is ${exportFormats.join(", ")}`);
    const skipped: Exported["skipped"] = [];
    const { data, rows } = await content(list, format, (id, why) => skipped.push({ id, why }));
    const path = join(this.folder, fileNames[format]);
    await atomicWriteFile(path, data);
    const hash = sha256(typeof data === "string" ? data : Buffer.from(data));
    return { path, rows, sha256: hash, skipped };
  }
}

async function content(
  list: readonly ConversationRecord[],
  format: ExportFormat,
  skip: (id: string, why: string) => void,
): Promise<{ data: string | Uint8Array; rows: number }> {
  if (format === "parquet") return { data: await toParquet(list), rows: list.length };
  if (format === "csv") {
    const whole = list.filter(({ id, messages }) => {
      const isPlain = messages.every((message) => Object.keys(message).length === 2);
      if (!isPlain) skip(id, "CSV has no place for tool calls and the like");
      return isPlain;
    });
    return { data: toCsv(whole), rows: whole.reduce((sum, { messages }) => sum + messages.length, 0) };
  }
  if (format === "preference") return jsonLines(preferenceRows(list));
  const rows = new TrainingDataFormatter(format === "json" ? "jsonl" : format).createTrainingPairs(list, {
    skip,
  });
  return format === "json"
    ? { data: `${JSON.stringify(rows, null, 1)}\n`, rows: rows.length }
    : jsonLines(rows);
}

export const jsonLines = (rows: readonly unknown[]) => ({
  data: rows.map((row) => `${JSON.stringify(row)}\n`).join(""),
  rows: rows.length,
});
