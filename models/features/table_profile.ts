/** What a column of a table holds. */
export interface ColumnProfile {
  readonly name: string;
  readonly type: "number" | "date" | "boolean" | "category" | "text" | "empty";
  /** The share of rows without a value, 0 to 1. */
  readonly missing: number;
  readonly min?: number;
  readonly mean?: number;
  readonly max?: number;
  /** The most frequent values of a category, with their counts. */
  readonly categories?: readonly (readonly [value: string, count: number])[];
}

const blank = new Set(["", "na", "n/a", "nan", "null", "none", "-", "?"]);
/** Whether a cell says that it has no value. */
export const isMissing = (cell: string | undefined): boolean => blank.has((cell ?? "").trim().toLowerCase());

/** The number in a cell, with thousands, a currency or a percent sign; NaN: it is none. */
export function numberIn(cell: string): number {
  const plain = cell
    .trim()
    .replace(/^[$€£¥]\s?|\s?[%€]$/g, "")
    .replace(/(?<=\d),(?=\d{3}(?:\D|$))/g, "");
  return /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(plain) ? Number(plain) : Number.NaN;
}

const isDate = (cell: string) => /^\d{4}-\d{2}-\d{2}|^\d{1,2}[./]\d{1,2}[./]\d{2,4}$/.test(cell.trim());
/** A column with more different values than this is text. */
const MOST_CATEGORIES = 50;

/** A profile of each column of a table. */
export function profile(columns: readonly string[], rows: readonly (readonly string[])[]): ColumnProfile[] {
  return columns.map((name, i) => {
    const present = rows.flatMap((row) => (isMissing(row[i]) ? [] : row[i].trim()));
    const missing = rows.length === 0 ? 0 : (rows.length - present.length) / rows.length;
    if (present.length === 0) return { name, type: "empty", missing };
    const numbers = present.map(numberIn);
    if (numbers.every(Number.isFinite)) {
      const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
      const [min, max] = numbers.reduce(
        ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
        [Infinity, -Infinity],
      );
      return { name, type: "number", missing, min, mean, max };
    }
    if (present.every(isDate)) return { name, type: "date", missing };
    if (present.every((cell) => /^(?:true|false|yes|no)$/i.test(cell)))
      return { name, type: "boolean", missing };
    const counts = new Map<string, number>();
    for (const cell of present) counts.set(cell, (counts.get(cell) ?? 0) + 1);
    if (counts.size > Math.min(MOST_CATEGORIES, Math.max(2, present.length / 2)))
      return { name, type: "text", missing };
    const categories = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 20);
    return { name, type: "category", missing, categories };
  });
}
