import { createHash } from "node:crypto";
import { KilnError } from "../../core/errors.ts";
import { cellText } from "./labelled.ts";
import { listed } from "./labels.ts";
import { findColumn, readTable, type Table, type TableFormat } from "./table.ts";

/** A query, and a passage that answers it: a title and its text, a question and its paragraph. */
export interface TextPair {
  query: string;
  passage: string;
}

export interface TextPairOptions {
  /** The columns. Default: usual names. If both are numbers, they count columns from 1, and the file has no header. */
  query?: string | undefined;
  passage?: string | undefined;
  format?: TableFormat | undefined;
  say?: ((line: string) => void) | undefined;
}

const usual = {
  query: ["query", "anchor", "question", "title", "headline", "heading"],
  passage: [
    "passage",
    "positive",
    "document",
    "body",
    "context",
    "answer",
    "abstract",
    "description",
    "text",
  ],
};

/**
 * The pairs of tables, each once, in order, and a hash of them. Says how many rows were left out.
 * Errors (KilnError): what `readTable` refuses; a column that is not there; a cell that is no text; fewer than two pairs.
 */
export async function readTextPairs(
  paths: readonly string[],
  options: TextPairOptions,
): Promise<{ examples: TextPair[]; hash: string }> {
  const pairs = new Map<string, TextPair>();
  const left = { "without a query or a passage": 0, "that came before": 0 };
  const isNumber = (name: string | undefined) => /^\d+$/.test(name ?? "");
  const header = !(isNumber(options.query) && isNumber(options.passage));
  for (const file of paths) {
    const table = await readTable(file, { ...options, header });
    const [query, passage] = (["query", "passage"] as const).map((side) => columnOf(table, side, options));
    for await (const row of table.rows([query, passage])) {
      const pair = { query: cellText(row, query).trim(), passage: cellText(row, passage).trim() };
      const key = JSON.stringify([pair.query, pair.passage]);
      if (pair.query === "" || pair.passage === "") left["without a query or a passage"]++;
      else if (pairs.has(key)) left["that came before"]++;
      else pairs.set(key, pair);
    }
  }
  const files = paths.join(", ");
  for (const [what, many] of Object.entries(left))
    if (many > 0) options.say?.(`left out of ${files}: rows ${what} ${many}`);
  if (pairs.size < 2)
    throw new KilnError(
      `${files}: ${pairs.size} ${pairs.size === 1 ? "pair" : "pairs"} of a query and a passage: one is told from others, so that there must be two at least`,
      { code: "table_empty" },
    );
  const hash = createHash("sha256")
    .update([...pairs.keys()].join("\n"))
    .digest("hex");
  return { examples: [...pairs.values()], hash };
}

function columnOf(table: Table, side: keyof typeof usual, options: TextPairOptions): string {
  const given = options[side];
  if (given !== undefined) return findColumn(table, given);
  for (const name of usual[side]) {
    const column = table.columns.find((each) => each.toLowerCase() === name);
    if (column !== undefined) return column;
  }
  throw new KilnError(
    `${table.file}: no column has a usual name for the ${side}: choose it with --${side}; there is ${listed(table.columns, 20)}`,
    { code: "column_missing" },
  );
}
