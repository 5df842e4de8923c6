import type { RefTensor } from "../../core/op.ts";
import { activate } from "../matmul/reference.ts";
import { byName, type FusedAttrs, type FusedLinearAttrs, type FusedQkvAttrs } from "./inputs.ts";

type Given = Record<string, RefTensor>;

/** A row of x, normalised. */
function normalised(
  { x, normWeight, normBias }: Given,
  { norm, eps = 0 }: FusedAttrs,
  row: number,
): Float64Array {
  const width = x!.shape[1];
  const values = x!.data.slice(row * width, (row + 1) * width);
  if (!norm) return values;
  const average = (v: Float64Array) => v.reduce((sum, y) => sum + y, 0) / width;
  const mean = norm === "layer" ? average(values) : 0;
  const scale = 1 / Math.sqrt(average(values.map((v) => (v - mean) ** 2)) + eps);
  return values.map((v, k) => (v - mean) * scale * normWeight!.data[k] + (normBias?.data[k] ?? 0));
}

/** Products of a row with each column of a weight. */
function productsOf(row: Float64Array, weight: RefTensor, inOut = false): number[] {
  const columns = weight.shape[inOut ? 1 : 0];
  return Array.from({ length: columns }, (_, n) =>
    row.reduce((sum, v, k) => sum + v * weight.data[inOut ? k * columns + n : n * row.length + k], 0),
  );
}

export function linearReference(
  inputs: readonly RefTensor[],
  attrs: FusedLinearAttrs,
  [y]: readonly RefTensor[],
): void {
  const given = byName(inputs, attrs) as Given;
  const { weight0, weight1, bias, residual, chosen } = given;
  const { activation } = attrs;
  const [rows, columns] = y!.shape as [number, number];
  for (let m = 0; m < rows; m++) {
    const row = normalised(given, attrs, chosen ? chosen.data[m] : m);
    const sums = productsOf(row, weight0!, attrs.inOut).map((v, n) => v + (bias?.data[n] ?? 0));
    const up = weight1 && productsOf(row, weight1, attrs.inOut);
    sums.forEach((v, n) => {
      const gated = up ? activate.silu(v) * up[n] : v;
      const value = activation && activation !== "swiglu" ? activate[activation](v) : gated;
      y!.data[m * columns + n] = value + (residual?.data[m * columns + n] ?? 0);
    });
  }
}

export function qkvReference(
  inputs: readonly RefTensor[],
  attrs: FusedQkvAttrs,
  [query]: readonly RefTensor[],
): void {
  const given = byName(inputs, attrs) as Given;
  const { weight0, weight1, weight2, bias, frequencies, places, keyCache, valueCache } = given;
  const [rows, heads, dim] = query!.shape as [number, number, number];
  const kvWidth = keyCache!.shape[2] * dim;
  const slotCount = keyCache!.shape[0] * keyCache!.shape[1];
  for (let m = 0; m < rows; m++) {
    const row = normalised(given, attrs, m);
    const weights = [weight0, weight1, weight2].filter((w) => w !== undefined);
    const all = weights
      .flatMap((w) => productsOf(row, w, attrs.inOut))
      .map((v, n) => v + (bias?.data[n] ?? 0));
    if (frequencies) rotate(all, heads * dim + kvWidth, dim, places!.data[m], frequencies.data);
    query!.data.set(all.slice(0, heads * dim), m * heads * dim);
    const slot = places!.data[places!.shape[1] + m];
    if (slot < 0 || slot >= slotCount) continue;
    keyCache!.data.set(all.slice(heads * dim, heads * dim + kvWidth), slot * kvWidth);
    valueCache!.data.set(all.slice(heads * dim + kvWidth), slot * kvWidth);
  }
}

/** Turns the first `count` values, heads of `dim`, by a position. */
function rotate(
  values: number[],
  count: number,
  dim: number,
  position: number,
  frequencies: Float64Array,
): void {
  for (let head = 0; head < count; head += dim) {
    for (let p = 0; p < dim / 2; p++) {
      const [i, j] = [head + p, head + p + dim / 2];
      const [cos, sin] = [Math.cos(position * frequencies[p]), Math.sin(position * frequencies[p])];
      [values[i], values[j]] = [values[i] * cos - values[j] * sin, values[j] * cos + values[i] * sin];
    }
  }
}
