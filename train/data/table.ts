import { KilnError, nearestName } from "../../core/errors.ts";
import { firstLine, isObject } from "../../core/platform/files.ts";
import { type DelimitedRecord, type Delimiter, detectDelimiter, readDelimited } from "./delimited.ts";
import { detectEncoding } from "./encoding.ts";
import { decodeFile, type Encoding, unpackedBytes } from "./files.ts";
import { listed } from "./labels.ts";
import { openParquet } from "./parquet.ts";
import { splitLines } from "./readers.ts";

/**
 * How a file holds rows. `label-first`: lines such as `1 a fine film`; `fasttext`: lines such as `__label__good a fine film`.
 * Each may be inside gzip.
 */
export const tableFormats = ["csv", "tsv", "jsonl", "json", "parquet", "label-first", "fasttext"] as const;
export type TableFormat = (typeof tableFormats)[number];

export interface TableOptions {
  /** Default: by the file's name and content. The two formats of lines are never guessed. */
  format?: TableFormat | undefined;
  /** False: the first line of a CSV or TSV is a row, and columns are called 1, 2, 3, …; default true. */
  header?: boolean | undefined;
  /** Told what was guessed about the file. */
  say?: ((line: string) => void) | undefined;
}

export interface TableRow {
  /** For messages: the file and the row, and the line if the file has lines. */
  where: string;
  values: Record<string, unknown>;
}

export interface Table {
  file: string;
  format: TableFormat;
  /** In the order of the file; those of JSON are the fields of its first rows. */
  columns: string[];
  /**
   * All rows, one at a time: memory does not grow with the file, except that a JSON file is held whole, and a row group of a
   * Parquet file. May be called several times. `columns` are those that the caller reads; others may be missing.
   */
  rows(columns?: readonly string[]): AsyncGenerator<TableRow>;
}

/**
 * Opens a CSV (its delimiter is detected), TSV, JSON Lines, JSON or Parquet file, or lines with a label. Text may be UTF-8,
 * UTF-16 or Latin-1.
 * Errors (KilnError, with the row): a file that cannot be read or is empty; a header that names a column twice; a row with
 * more or fewer fields than the header; text after a closing quote; JSON that is invalid or no table.
 */
export async function readTable(file: string, options: TableOptions = {}): Promise<Table> {
  const format = options.format ?? (await detectFormat(file));
  if (format === "parquet") {
    const { columns, rows } = await openParquet(file);
    return { file, format, columns, rows: (wanted) => numbered(file, rows(wanted ?? columns)) };
  }
  const { encoding, guess } = await detectEncoding(file);
  if (guess) options.say?.(guess);
  if (format === "csv" || format === "tsv") return delimitedTable(file, format, encoding, options);
  if (format === "json") return jsonTable(file, encoding);
  const read = format === "jsonl" ? jsonLines : format === "fasttext" ? fastTextLines : labelFirstLines;
  const rows = () => read(file, splitLines(file, decodeFile(file, encoding)));
  return { file, format, columns: await fieldsOf(rows()), rows };
}

async function detectFormat(file: string): Promise<TableFormat> {
  const [, extension = ""] = file.toLowerCase().match(/\.(\w+?)(?:\.gz)?$/) ?? [];
  const known = {
    parquet: "parquet",
    jsonl: "jsonl",
    ndjson: "jsonl",
    csv: "csv",
    tsv: "tsv",
    tab: "tsv",
  } as const;
  if (Object.hasOwn(known, extension)) return known[extension as keyof typeof known];
  for await (const chunk of unpackedBytes(file)) {
    const start = Buffer.from(chunk.subarray(0, 2 ** 16)).toString("latin1");
    if (start.startsWith("PAR1")) return "parquet";
    const text = start.replace(/^(\xef\xbb\xbf|[\xff\xfe]{2})/, "").trimStart();
    if (text.startsWith("[")) return "json";
    const [, first = ""] = text.match(/^(\{.*)\n\s*\S/) ?? [];
    if (text.startsWith("{")) return isJson(first) ? "jsonl" : "json";
    return "csv";
  }
  throw new KilnError(`${file} is empty: there is nothing to learn from`, { code: "table_empty" });
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

async function delimitedTable(
  file: string,
  format: "csv" | "tsv",
  encoding: Encoding,
  { header = true }: TableOptions,
): Promise<Table> {
  const delimiter = format === "tsv" ? "\t" : await delimiterOf(file, encoding);
  const records = () => readDelimited(file, decodeFile(file, encoding), delimiter);
  const fields = await firstFields(records());
  if (!fields)
    throw new KilnError(`${file} is empty: there is nothing to learn from`, { code: "table_empty" });
  const columns = header ? headerOf(fields, file) : fields.map((_, i) => `${i + 1}`);
  async function* rows() {
    let number = 0;
    let isHeader = header;
    for await (const { fields: cells, line } of records()) {
      if (isHeader) {
        isHeader = false;
        continue;
      }
      const where = `${file} row ${++number} (line ${line})`;
      if (cells.length !== columns.length)
        throw ragged(where, cells.length, columns.length, delimiter, header);
      yield { where, values: Object.fromEntries(columns.map((column, i) => [column, cells[i]])) };
    }
  }
  return { file, format, columns, rows };
}

async function firstFields(records: AsyncIterable<DelimitedRecord>): Promise<string[] | null> {
  for await (const { fields } of records) return fields;
  return null;
}

async function delimiterOf(file: string, encoding: Encoding): Promise<Delimiter> {
  let start = "";
  for await (const chunk of decodeFile(file, encoding)) {
    start += chunk;
    if (start.length > 2 ** 16) break;
  }
  return detectDelimiter(start.slice(0, 2 ** 16));
}

function headerOf(fields: readonly string[], file: string): string[] {
  const names = fields.map((name, i) => name.trim() || `${i + 1}`);
  const twice = names.findIndex((name, i) => names.indexOf(name) < i);
  if (twice < 0) return names;
  throw new KilnError(
    `${file} names the column ${JSON.stringify(names[twice])} twice (columns ${names.indexOf(names[twice]) + 1} and ${twice + 1}): rename one in its first line`,
    { code: "table_invalid" },
  );
}

function ragged(
  where: string,
  found: number,
  expected: number,
  delimiter: string,
  header: boolean,
): KilnError {
  const names = { "\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars" } as Record<string, string>;
  const count = (n: number) => `${n} ${n === 1 ? "field" : "fields"}`;
  return new KilnError(
    `${where} has ${count(found)} where the ${header ? "header" : "first row"} has ${expected} (between ${names[delimiter]}): put a field that holds the delimiter in double quotes`,
    { code: "table_invalid" },
  );
}

/** One JSON text: a list of rows, or an object with one list; a row is an object, or a list whose columns are called 1, 2, 3, …. */
async function jsonTable(file: string, encoding: Encoding): Promise<Table> {
  let text = "";
  for await (const chunk of decodeFile(file, encoding)) text += chunk;
  const invalid = (what: string) => new KilnError(`${file} ${what}`, { code: "table_invalid" });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`is not valid JSON: ${firstLine(error)}`);
  }
  const lists = isObject(value) ? Object.entries(value).filter(([, inner]) => Array.isArray(inner)) : [];
  if (lists.length > 1) {
    const names = lists.map(([name]) => name).join(", ");
    throw invalid(`holds several lists (${names}): save the one that is meant as a file of its own`);
  }
  const list = Array.isArray(value) ? value : lists[0]?.[1];
  if (!Array.isArray(list)) throw invalid('should be a list of rows such as [{"text": …, "label": …}, …]');
  async function* rows() {
    for (const [i, row] of (list as unknown[]).entries()) {
      const where = `${file} row ${i + 1}`;
      yield { where, values: fieldsOfRow(row, where) };
    }
  }
  return { file, format: "json", columns: await fieldsOf(rows()), rows };
}

function fieldsOfRow(row: unknown, where: string): Record<string, unknown> {
  if (isObject(row)) return row;
  if (Array.isArray(row)) return Object.fromEntries(row.map((cell, i) => [`${i + 1}`, cell]));
  throw new KilnError(`${where} should be a JSON object such as {"text": …, "label": …}`, {
    code: "table_invalid",
  });
}

async function* jsonLines(file: string, lines: AsyncIterable<string>): AsyncGenerator<TableRow> {
  let line = 0;
  let number = 0;
  for await (const text of lines) {
    line++;
    if (text.trim() === "") continue;
    const where = `${file} row ${++number} (line ${line})`;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new KilnError(`${where} is not valid JSON: ${firstLine(error)}`, { code: "table_invalid" });
    }
    yield { where, values: fieldsOfRow(value, where) };
  }
}

/** `LABEL text`, one a line. */
const labelFirstLines = lineReader(/^(\S+)\s+(.*)$/, ([, label, text]) => ({ label, text }));
/** `__label__A __label__B text`, one a line. */
const fastTextLines = lineReader(/^((?:__label__\S+\s+)+)(.*)$/, ([, labels, text]) => {
  const names = labels
    .trim()
    .split(/\s+/)
    .map((name) => name.slice("__label__".length));
  return { label: names.length === 1 ? names[0] : names, text };
});

function lineReader(pattern: RegExp, parse: (match: string[]) => Record<string, unknown>) {
  return async function* (file: string, lines: AsyncIterable<string>): AsyncGenerator<TableRow> {
    let number = 0;
    for await (const line of lines) {
      number++;
      if (line.trim() === "") continue;
      const where = `${file} line ${number}`;
      const match = line.trimEnd().match(pattern);
      if (!match)
        throw new KilnError(`${where} has no label and text: ${JSON.stringify(line.slice(0, 40))}`, {
          code: "table_invalid",
        });
      yield { where, values: parse(match) };
    }
  };
}

async function* numbered(
  file: string,
  rows: AsyncIterable<Record<string, unknown>>,
): AsyncGenerator<TableRow> {
  let number = 0;
  for await (const values of rows) yield { where: `${file} row ${++number}`, values };
}

/** The fields of the first rows. */
async function fieldsOf(rows: AsyncIterable<TableRow>): Promise<string[]> {
  const fields = new Set<string>();
  let seen = 0;
  for await (const { values } of rows) {
    for (const field of Object.keys(values)) fields.add(field);
    if (++seen === 20) break;
  }
  return [...fields];
}

/**
 * The column of a table that a user means: by its exact name, else without regard to case. Throws a KilnError that names
 * the nearest and all others.
 */
export function findColumn({ file, columns }: Pick<Table, "file" | "columns">, name: string): string {
  if (columns.includes(name)) return name;
  const alike = columns.filter((column) => column.toLowerCase() === name.toLowerCase());
  if (alike.length === 1) return alike[0];
  const nearest = nearestName(name, columns);
  const hint = nearest ? `did you mean ${JSON.stringify(nearest)}? ` : "";
  throw new KilnError(
    `${file} has no column ${JSON.stringify(name)}: ${hint}it has ${listed(columns, 20) || "none"}`,
    { code: "column_missing" },
  );
}
