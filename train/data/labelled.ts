import { KilnError } from "../../core/errors.ts";
import { isObject } from "../../core/platform/files.ts";
import type { LeaveOut } from "./files.ts";
import { listed } from "./labels.ts";
import { findColumn, readTable, type Table, type TableFormat, type TableRow } from "./table.ts";

/** A text and what it is labelled with: one label, or any number where several may hold. */
export interface LabelledText {
  text: string;
  labels: string[];
  /** For messages: the file and the row. */
  where: string;
}

export interface LabelledOptions {
  /** The column of the text, or several, whose texts are joined by a space. Default: the usual names. */
  text?: string | readonly string[] | undefined;
  /**
   * The column of the label (a list in it is several labels), or several columns of 0 and 1, each of which is a label.
   * Default: the usual names. If text and label are both numbers, they count columns from 1, and the file has no header.
   */
  label?: string | readonly string[] | undefined;
  format?: TableFormat | undefined;
  /** Told what was guessed about a file. */
  say?: ((line: string) => void) | undefined;
}

const usual = {
  text: [
    "text",
    "sentence",
    "content",
    "review",
    "comment",
    "comment_text",
    "tweet",
    "message",
    "sms",
    "question",
    "title",
  ],
  label: ["label", "labels", "category", "class", "target", "intent", "sentiment"],
};

/**
 * The labelled texts of tables, one file after the other. Rows without text or without a label are left out and reported.
 * Errors (KilnError): what `readTable` refuses; a column that is not there; a column that is empty throughout; a cell that is
 * no text; a flag other than 0 and 1; fewer than two rows in all.
 */
export async function* readLabelled(
  paths: readonly string[],
  options: LabelledOptions = {},
  leaveOut: LeaveOut = () => {},
): AsyncGenerator<LabelledText> {
  let total = 0;
  for (const file of paths) {
    const table = await readTable(file, { ...options, header: !countsColumns(options) });
    const texts = columnsOf(table, "text", options.text);
    const flags = columnsOf(table, "label", options.label);
    const seen = { rows: 0, text: 0, label: 0 };
    for await (const row of table.rows([...texts, ...flags])) {
      seen.rows++;
      const text = texts
        .map((column) => cellText(row, column))
        .filter(Boolean)
        .join(" ");
      const labels =
        flags.length > 1 ? flags.filter((column) => isSet(row, column)) : labelsOf(row, flags[0]);
      if (text.trim() !== "") seen.text++;
      if (flags.length > 1 || labels.length > 0) seen.label++;
      if (text.trim() === "") leaveOut("rows without text");
      else if (flags.length === 1 && labels.length === 0) leaveOut("rows without a label");
      else {
        total++;
        yield { text, labels, where: row.where };
      }
    }
    for (const [kind, columns] of [
      ["text", texts],
      ["label", flags],
    ] as const) {
      if (seen.rows === 0 || seen[kind] > 0) continue;
      throw new KilnError(
        `${file}: the column ${columns.join(", ")} is empty in all ${seen.rows} rows: name another with --${kind}; there is ${listed(table.columns, 20)}`,
        { code: "column_empty" },
      );
    }
  }
  if (total >= 2) return;
  throw new KilnError(
    `${paths.join(", ")}: ${total === 0 ? "no row" : "only 1 row"} with text and label: a classifier learns from two at least, and needs hundreds to be of use`,
    { code: "table_empty" },
  );
}

/** Whether columns are given by number. */
function countsColumns({ text, label }: LabelledOptions): boolean {
  const given = [text ?? [], label ?? []].flat();
  return given.length > 1 && given.every((name) => /^\d+$/.test(name));
}

function columnsOf(table: Table, kind: "text" | "label", given?: string | readonly string[]): string[] {
  if (given !== undefined && given.length > 0) return [given].flat().map((name) => findColumn(table, name));
  for (const name of usual[kind]) {
    const column = table.columns.find((each) => each.toLowerCase() === name);
    if (column !== undefined) return [column];
  }
  const isText = table.format === "csv" || table.format === "tsv";
  const hint = isText
    ? " (for a file without a header give numbers of columns; for lines that begin with their label --format label-first)"
    : "";
  throw new KilnError(
    `${table.file}: no column has a usual name for the ${kind}: choose it with --${kind}; there is ${listed(table.columns, 20)}${hint}`,
    { code: "column_missing" },
  );
}

/** A cell as text, empty where there is none. @throws KilnError for a list or an object. */
export function cellText({ values, where }: TableRow, column: string): string {
  const value = values[column];
  if (value === undefined || value === null) return "";
  if (value instanceof Date) return value.toISOString();
  if (!isObject(value) && !Array.isArray(value)) return String(value);
  throw new KilnError(
    `${where}: the column ${column} holds ${Array.isArray(value) ? "a list" : "an object"}, not a text`,
    { code: "table_invalid" },
  );
}

/** The labels of one column: its text, or each of a list. */
function labelsOf(row: TableRow, column: string): string[] {
  const value = row.values[column];
  const cells = Array.isArray(value) ? value : [value];
  return cells.map((cell) => cellText({ ...row, values: { [column]: cell } }, column).trim()).filter(Boolean);
}

/** Whether a column of 0 and 1 holds 1. */
function isSet(row: TableRow, column: string): boolean {
  const text = cellText(row, column).trim().toLowerCase();
  if (["1", "true"].includes(text)) return true;
  if (["", "0", "false"].includes(text)) return false;
  throw new KilnError(
    `${row.where}: the column ${column} holds ${JSON.stringify(text)}; of several label columns each holds 0 or 1`,
    { code: "table_invalid" },
  );
}
