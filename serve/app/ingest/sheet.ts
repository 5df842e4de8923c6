import { profile } from "../../../models/features/table_profile.ts";
import type { Block } from "../retrieval/index.ts";
import { type Extracted, parser, Unreadable } from "./extracted.ts";

/** Rows of one table that are read; the rest is counted. */
const MOST_ROWS = 50_000;

/** A table of separated values. Each row becomes a line that names its columns. */
export async function csv(text: string): Promise<Extracted> {
  const { parse } = await parser("csv-parse", () => import("csv-parse/sync"));
  let rows: string[][];
  try {
    rows = parse(text, {
      delimiter: delimiterOf(text),
      relax_column_count: true,
      relax_quotes: true,
      skip_empty_lines: true,
      bom: true,
    });
  } catch (error) {
    throw new Unreadable(`the table is damaged: ${(error as Error).message}`);
  }
  const { block, facts, notes } = table(rows, undefined);
  return { blocks: block, notes, facts: { tables: [facts] } };
}

/** The sheets of a workbook, each a table under its name. */
export async function xlsx(bytes: Uint8Array): Promise<Extracted> {
  const { default: XLSX } = await parser("@e965/xlsx", () => import("@e965/xlsx"));
  let book: ReturnType<typeof XLSX.read>;
  try {
    book = XLSX.read(bytes, { type: "array", cellFormula: false, cellHTML: false, sheetRows: MOST_ROWS + 1 });
  } catch (error) {
    throw new Unreadable(`the workbook is damaged: ${(error as Error).message}`);
  }
  const sheets = book.SheetNames.map((name) => {
    const rows = XLSX.utils.sheet_to_json<string[]>(book.Sheets[name], {
      header: 1,
      raw: false,
      defval: "",
      blankrows: false,
    });
    return table(rows, name);
  });
  return {
    blocks: sheets.flatMap(({ block }) => block),
    notes: sheets.flatMap(({ notes }) => notes),
    facts: { tables: sheets.map(({ facts }) => facts) },
  };
}

function table(rows: readonly string[][], heading: string | undefined) {
  const [head = [], ...body] = rows.map((row) =>
    row.map((cell) =>
      String(cell ?? "")
        .replace(/\s+/g, " ")
        .trim(),
    ),
  );
  const kept = body.slice(0, MOST_ROWS);
  const columns = head.map((name, i) => name || `column ${i + 1}`);
  const lines = kept.map((row) =>
    row.flatMap((cell, i) => (cell === "" ? [] : `${columns[i] ?? `column ${i + 1}`}: ${cell}`)).join("; "),
  );
  const text =
    lines.filter((line) => line !== "").join("\n") || head.filter((cell) => cell !== "").join("; ");
  const block: Block[] = text === "" ? [] : [{ text, heading, kind: "table" }];
  const notes = body.length > kept.length ? [`of ${body.length} rows the first ${MOST_ROWS} were read`] : [];
  return { block, notes, facts: { name: heading, rows: body.length, columns: profile(columns, kept) } };
}

/** The sign that parts the first lines into most columns of the same number. */
function delimiterOf(text: string): string {
  const lines = text
    .split(/\r?\n/)
    .filter((line) => line !== "")
    .slice(0, 20);
  const score = (sign: string) => {
    const counts = lines.map((line) => line.replace(/"(?:[^"]|"")*"/g, "").split(sign).length - 1);
    return counts.filter((count) => count > 0 && count === counts[0]).length * Math.min(counts[0] ?? 0, 50);
  };
  return [",", ";", "\t", "|"].reduce((best, sign) => (score(sign) > score(best) ? sign : best), ",");
}
