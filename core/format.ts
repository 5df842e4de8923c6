import type { DType } from "./dtype.ts";
import { numel, type Shape } from "./shape.ts";

/** Tensors of more elements are shown by the first and last three entries of each long axis. */
export const mostShown = 1000;
const edge = 3;
const gap = "...";
const lineWidth = 80;

/**
 * Nested lists of values in columns, as PyTorch prints them: whole numbers as they are, others with four decimals, or
 * with exponents where the largest is 1000 times the smallest and more, or nearly out of sight.
 *
 * @param indent columns to the left of the first line
 */
export function formatValues(values: ArrayLike<number>, shape: Shape, dtype: DType, indent = 0): string {
  const short = numel(shape) > mostShown;
  const picked: number[] = [];
  const visit = (axis: number, at: number) => {
    if (axis === shape.length) picked.push(values[at]);
    else for (const i of shownOf(shape[axis], short)) if (i !== gap) visit(axis + 1, at * shape[axis] + i);
  };
  visit(0, 0);
  const write = writer(picked, dtype);
  const width = Math.max(0, ...picked.map((v) => write(v).length));
  const nest = (axis: number, at: number, depth: number): string => {
    if (axis === shape.length) return write(values[at]).padStart(shape.length > 0 ? width : 0);
    const items = shownOf(shape[axis], short).map((i) =>
      i === gap ? gap : nest(axis + 1, at * shape[axis] + i, depth + 1),
    );
    const margin = " ".repeat(depth);
    const outer = `,${"\n".repeat(shape.length - 1 - axis)}${margin}`;
    if (axis < shape.length - 1) return `[${items.join(outer)}]`;
    const perLine = Math.max(1, Math.floor((lineWidth - depth) / (width + 2)));
    const lines = Array.from({ length: Math.ceil(items.length / perLine) }, (_, i) =>
      items.slice(i * perLine, (i + 1) * perLine).join(", "),
    );
    return `[${lines.join(`,\n${margin}`)}]`;
  };
  return nest(0, 0, indent + 1);
}

/** Indices of an axis that are shown. */
function shownOf(extent: number, short: boolean): (number | typeof gap)[] {
  const all = Array.from({ length: Math.min(extent, short ? 2 * edge : extent) }, (_, i) => i);
  if (!short || extent <= 2 * edge) return all;
  return [...all.slice(0, edge), gap, ...all.slice(edge).map((i) => extent - 2 * edge + i)];
}

function writer(values: readonly number[], dtype: DType): (v: number) => string {
  if (dtype === "bool") return (v) => String(v !== 0);
  if (dtype === "i32" || dtype === "u32") return String;
  const sizes = values.map(Math.abs).filter((v) => Number.isFinite(v) && v > 0);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const named = (write: (v: number) => string) => (v: number) =>
    Number.isFinite(v) ? write(v) : String(v).replace("Infinity", "inf").replace("NaN", "nan");
  if (most > 1e8 || (least < 1e-4 && sizes.length > 0) || most / least > 1000)
    return named((v) => (sizes.every(Number.isInteger) && most <= 1e8 ? `${v}.` : v.toExponential(4)));
  return named((v) => (sizes.every(Number.isInteger) ? `${v}.` : v.toFixed(4)));
}
