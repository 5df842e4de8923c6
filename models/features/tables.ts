import { z } from "zod";
import { KilnError } from "../../core/errors.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { parseWith } from "../formats/validation.ts";
import { isMissing, numberIn, profile } from "./table_profile.ts";

/** A row of a table by its columns: texts as CSV has them, or numbers, booleans and null. */
export type TableCells = Readonly<Record<string, unknown>>;

const constant = <T extends z.ZodType>(value: T) => z.strictObject({ constant: value });
const numberSettings = z.strictObject({
  kind: z.literal("number"),
  scale: z.enum(["z-score", "min-max", "none"]).default("z-score"),
  fill: z
    .union([z.enum(["median", "mean", "mode"]), constant(z.number())])
    .default("median")
    .describe("what stands for a missing value"),
});
const categorySettings = z.strictObject({
  kind: z.literal("category"),
  fill: z
    .union([z.enum(["mode", "none"]), constant(z.string())])
    .default("none")
    .describe("none: a missing value is none of the categories"),
});
const settings = z.record(z.string(), z.discriminatedUnion("kind", [numberSettings, categorySettings]));

/** How columns become numbers. Whatever is not given has its default: z-score, median, and no category for a missing value. */
export type TableSettings = z.input<typeof settings>;

const fittedNumber = numberSettings.omit({ scale: true }).extend({
  name: z.string(),
  fill: z.number(),
  shift: z.number(),
  divisor: z.number(),
});
const fittedCategory = z.strictObject({
  ...{ kind: z.literal("category"), name: z.string(), fill: z.string().nullable() },
  categories: z.array(z.string()),
});
const fittedColumns = z.array(z.discriminatedUnion("kind", [fittedNumber, fittedCategory]));
type FittedColumn = z.output<typeof fittedColumns>[number];

/**
 * The columns of a table as numbers: numbers scaled (z-score or min-max) with median, mean, mode or a constant for what is
 * missing, categories one-hot. Everything is fitted on the rows that are given to `fit`, which are those of training: other rows
 * change nothing of it, and a category that was not among them is all zero.
 */
export class TableFeatures {
  readonly #columns: readonly FittedColumn[];

  private constructor(columns: readonly FittedColumn[]) {
    this.#columns = columns;
  }

  /**
   * Fits the columns of `given`, or all columns that hold numbers, categories or booleans.
   * @throws KilnError for a column that is not there, and a number column with a value that is none.
   */
  static fit(rows: readonly TableCells[], given?: TableSettings): TableFeatures {
    if (rows.length === 0) throw new KilnError("a table without rows: there is nothing to fit");
    const plan = parseWith(settings, given ?? guessed(rows), () => "the table's columns");
    return new TableFeatures(
      Object.entries(plan).map(([name, column]) => {
        if (!rows.some((row) => name in row))
          throw new KilnError(
            `the table has no column ${name}: it has ${Object.keys(rows[0] ?? {}).join(", ")}`,
          );
        return column.kind === "number" ? fitNumber(name, column, rows) : fitCategory(name, column, rows);
      }),
    );
  }

  /** What each feature is: `age`, `colour=red`. */
  get names(): string[] {
    return this.#columns.flatMap((column) =>
      column.kind === "number" ? [column.name] : column.categories.map((one) => `${column.name}=${one}`),
    );
  }

  /** The features of rows, [rows, features]. @throws KilnError for a value in a number column that is none. */
  transform(rows: readonly TableCells[]): Tensor {
    const width = this.names.length;
    const values = new Float32Array(rows.length * width);
    for (const [i, row] of rows.entries()) {
      let at = i * width;
      for (const column of this.#columns) {
        if (column.kind === "number") {
          const value = numberOf(row, column.name, i) ?? column.fill;
          values[at++] = (value - column.shift) / column.divisor;
        } else {
          const place = column.categories.indexOf(textOf(row, column.name) ?? column.fill ?? "");
          if (place >= 0) values[at + place] = 1;
          at += column.categories.length;
        }
      }
    }
    return tensor(values, [rows.length, width]);
  }

  /** What was fitted, for JSON. */
  toJSON(): unknown {
    return this.#columns;
  }

  /** From what `toJSON` gave. @throws KilnError for what is none. */
  static fromJSON(json: unknown): TableFeatures {
    return new TableFeatures(parseWith(fittedColumns, json, () => "the fitted table"));
  }
}

/** The kinds of columns by their profile; dates and free text are left out. */
function guessed(rows: readonly TableCells[]): TableSettings {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = rows.map((row) => columns.map((name) => textOf(row, name) ?? ""));
  const found = profile(columns, cells).flatMap(({ name, type }): [string, TableSettings[string]][] => {
    if (type === "number") return [[name, { kind: "number" }]];
    return type === "category" || type === "boolean" ? [[name, { kind: "category" }]] : [];
  });
  return Object.fromEntries(found);
}

/** The text of a cell; null: it is missing. */
function textOf(row: TableCells, name: string): string | null {
  const value = row[name];
  const text = value === null || value === undefined ? "" : String(value).trim();
  return isMissing(text) ? null : text;
}

function numberOf(row: TableCells, name: string, place: number): number | null {
  const text = textOf(row, name);
  if (text === null) return null;
  const value = numberIn(text);
  if (Number.isFinite(value)) return value;
  throw new KilnError(
    `row ${place + 1} has ${JSON.stringify(text)} in the column ${name}, which is of numbers: make it a category, or mend the row`,
  );
}

function fitNumber(
  name: string,
  { kind, scale, fill }: z.output<typeof numberSettings>,
  rows: readonly TableCells[],
): FittedColumn {
  const present = rows.flatMap((row, i) => numberOf(row, name, i) ?? []);
  const filled = typeof fill === "object" ? fill.constant : fills[fill](present);
  if (filled === undefined)
    throw new KilnError(`the column ${name} has no value: give fill: { constant: … }, or leave it out`);
  const all = rows.map((row, i) => numberOf(row, name, i) ?? filled);
  const [shift, divisor] = scales[scale](all);
  // A column of one value says nothing; its features are 0.
  return { kind, name, fill: filled, shift, divisor: divisor === 0 ? 1 : divisor };
}

const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

const scales = {
  "z-score"(values: readonly number[]): [number, number] {
    const mean = meanOf(values);
    return [mean, Math.sqrt(meanOf(values.map((value) => (value - mean) ** 2)))];
  },
  "min-max"(values: readonly number[]): [number, number] {
    const [low, high] = values.reduce(
      ([a, b], value) => [Math.min(a, value), Math.max(b, value)],
      [Infinity, -Infinity],
    );
    return [low, high - low];
  },
  none: (): [number, number] => [0, 1],
};

const fills = {
  median(values: readonly number[]): number | undefined {
    const sorted = values.toSorted((a, b) => a - b);
    const at = (sorted.length - 1) / 2;
    return sorted.length === 0 ? undefined : (sorted[Math.floor(at)] + sorted[Math.ceil(at)]) / 2;
  },
  mean: (values: readonly number[]): number | undefined => (values.length === 0 ? undefined : meanOf(values)),
  mode: (values: readonly number[]) => mostFrequent(values, (a, b) => a - b),
};

/** The most frequent value, of several the lowest; undefined: there is none. */
function mostFrequent<T>(values: readonly T[], order: (a: T, b: T) => number): T | undefined {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || order(a[0], b[0]))[0]?.[0];
}

const byCode = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

function fitCategory(
  name: string,
  { kind, fill }: z.output<typeof categorySettings>,
  rows: readonly TableCells[],
): FittedColumn {
  const present = rows.flatMap((row) => textOf(row, name) ?? []);
  const filled =
    typeof fill === "object"
      ? fill.constant
      : fill === "mode"
        ? (mostFrequent(present, byCode) ?? null)
        : null;
  const all = present.length < rows.length && filled !== null ? [...present, filled] : present;
  return { kind, name, fill: filled, categories: [...new Set(all)].sort(byCode) };
}
