import { setImmediate as nextTurn } from "node:timers/promises";
import { philox4x32, seedWords, toUnit } from "../../../core/random.ts";
import { DenseRows } from "./dense.ts";
import type { LexicalIndex, Ranking } from "./lexical.ts";
import { termsOf } from "./terms.ts";

/** Rounds of multiplication that turn a random space into that of the largest singular values. */
const POWER_ITERATIONS = 4;

/**
 * Latent semantic analysis of an index (Deerwester et al. 1990): texts that use words in the same company are near, though they
 * share none. Weights are (1 + ln tf) · idf, rows of length 1; the space comes from a randomised SVD (Halko et al. 2011).
 */
export class LatentIndex {
  readonly #index: LexicalIndex;
  readonly #rank: number;
  /** [kept terms, rank]: what a term adds to a text's place. */
  readonly #basis: Float64Array;
  /** Rows of `#basis` by term; -1: a term of a single chunk, which tells nothing. */
  readonly #columns: Int32Array;
  /** [chunks, rank], rows of length 1. */
  readonly #places: DenseRows;

  private constructor(
    index: LexicalIndex,
    columns: Int32Array,
    basis: Float64Array,
    rank: number,
    places: DenseRows,
  ) {
    this.#index = index;
    this.#columns = columns;
    this.#basis = basis;
    this.#rank = rank;
    this.#places = places;
  }

  /** Makes the space of an index; others have their turn meanwhile. */
  static async of(index: LexicalIndex, most = 100, seed = 0): Promise<LatentIndex> {
    const columns = new Int32Array(index.terms).fill(-1);
    let kept = 0;
    for (let term = 0; term < index.terms; term++) if (index.frequency(term) >= 2) columns[term] = kept++;
    const matrix = sparse(index, columns, kept);
    const rank = Math.max(0, Math.min(most, index.size, kept));
    const basis = await leadingSpace(matrix, rank, seed);
    const places = Float32Array.from(unitRows(times(matrix, basis, rank), rank));
    return new LatentIndex(index, columns, basis, rank, new DenseRows(places, rank));
  }

  /** The same space for an index of mostly the same chunks: `from` has the places of those in this one; others stand where their terms are. */
  with(index: LexicalIndex, from: readonly number[]): LatentIndex {
    const columns = new Int32Array(index.terms).fill(-1);
    for (const [term, id] of index.termIds) columns[id] = this.#columns[this.#index.termId(term) ?? -1] ?? -1;
    const places = new Float32Array(from.length * this.#rank);
    const next = new LatentIndex(index, columns, this.#basis, this.#rank, new DenseRows(places, this.#rank));
    for (const [chunk, before] of from.entries())
      places.set(
        before < 0 ? next.#placeOf(index.termsOf(chunk)) : this.#places.row(before),
        chunk * this.#rank,
      );
    return next;
  }

  /** The best `most` chunks by the cosine of the angle to the query's place; none if no chunk shares a word with another. */
  search(text: string, most: number): Ranking {
    const counts = new Map<number, number>();
    for (const term of termsOf(text)) {
      const id = this.#index.termId(term);
      if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    return this.#places.search(this.#placeOf(counts), most);
  }

  #placeOf(counts: Iterable<readonly [term: number, count: number]>): Float64Array {
    const place = new Float64Array(this.#rank);
    for (const [id, count] of counts) {
      if (this.#columns[id] < 0) continue;
      const weight = (1 + Math.log(count)) * this.#index.idfOf(id);
      const from = this.#columns[id] * this.#rank;
      for (let i = 0; i < this.#rank; i++) place[i] += weight * this.#basis[from + i];
    }
    return unitRows(place, this.#rank);
  }
}

/** Rows of a sparse matrix: the columns and values of row r from `starts[r]` on. */
interface Sparse {
  readonly starts: Uint32Array;
  readonly columns: Uint32Array;
  readonly values: Float64Array;
  readonly width: number;
}

function sparse(index: LexicalIndex, columns: Int32Array, width: number): Sparse {
  const starts = [0];
  const where: number[] = [];
  const values: number[] = [];
  for (let chunk = 0; chunk < index.size; chunk++) {
    const from = where.length;
    let square = 0;
    for (const [term, count] of index.termsOf(chunk)) {
      if (columns[term] < 0) continue;
      const weight = (1 + Math.log(count)) * index.idfOf(term);
      where.push(columns[term]);
      values.push(weight);
      square += weight ** 2;
    }
    for (let i = from; i < values.length; i++) values[i] /= Math.sqrt(square);
    starts.push(where.length);
  }
  return {
    starts: Uint32Array.from(starts),
    columns: Uint32Array.from(where),
    values: Float64Array.from(values),
    width,
  };
}

/** matrix [n, w] @ dense [w, k]. */
function times({ starts, columns, values }: Sparse, dense: Float64Array, k: number): Float64Array {
  const out = new Float64Array((starts.length - 1) * k);
  for (let row = 0; row + 1 < starts.length; row++)
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      const [value, from, to] = [values[i], columns[i] * k, row * k];
      for (let j = 0; j < k; j++) out[to + j] += value * dense[from + j];
    }
  return out;
}

/** matrixᵀ [w, n] @ dense [n, k]. */
function transposedTimes(
  { starts, columns, values, width }: Sparse,
  dense: Float64Array,
  k: number,
): Float64Array {
  const out = new Float64Array(width * k);
  for (let row = 0; row + 1 < starts.length; row++)
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      const [value, to, from] = [values[i], columns[i] * k, row * k];
      for (let j = 0; j < k; j++) out[to + j] += value * dense[from + j];
    }
  return out;
}

/**
 * An orthonormal basis of the space of the first `rank` right singular vectors, [width, rank]. Angles within a space are the same by
 * any basis of it, so the singular vectors themselves are not needed.
 */
async function leadingSpace(matrix: Sparse, rank: number, seed: number): Promise<Float64Array> {
  let basis = await orthonormal(randomSigns(matrix.width * rank, seed), rank);
  for (let round = 0; round < POWER_ITERATIONS; round++)
    basis = await orthonormal(transposedTimes(matrix, times(matrix, basis, rank), rank), rank);
  return basis;
}

/** Values between -1 and 1 that a seed decides. */
function randomSigns(length: number, seed: number): Float64Array {
  const values = new Float64Array(length);
  const key = seedWords(seed);
  for (let i = 0; i < length; i += 4) {
    const words = philox4x32(key, [i / 4, 0, 0, 0]);
    for (let j = 0; j < 4 && i + j < length; j++) values[i + j] = 2 * toUnit(words[j]) - 1;
  }
  return values;
}

/** The columns of [rows, k], made orthonormal by modified Gram-Schmidt, twice; a column that depends on those before it is 0. */
async function orthonormal(columns: Float64Array, k: number): Promise<Float64Array> {
  const rows = columns.length / k;
  // A column's values side by side.
  const q = Array.from({ length: k }, (_, j) =>
    Float64Array.from({ length: rows }, (_, i) => columns[i * k + j]),
  );
  const dot = (a: Float64Array, b: Float64Array) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) sum += a[i] * b[i];
    return sum;
  };
  for (const [j, column] of q.entries()) {
    await nextTurn();
    const before = Math.sqrt(dot(column, column));
    for (let pass = 0; pass < 2; pass++)
      for (const other of q.slice(0, j)) {
        const share = dot(column, other);
        for (let i = 0; i < rows; i++) column[i] -= share * other[i];
      }
    const norm = Math.sqrt(dot(column, column));
    const scale = norm > 1e-10 * before && norm > 0 ? 1 / norm : 0;
    for (let i = 0; i < rows; i++) column[i] *= scale;
  }
  return Float64Array.from({ length: columns.length }, (_, at) => q[at % k][Math.floor(at / k)]);
}

/** Rows of `k` values, scaled in place to length 1; rows of zeros stay. */
function unitRows(rows: Float64Array, k: number): Float64Array {
  for (let from = 0; from < rows.length; from += k) {
    const row = rows.subarray(from, from + k);
    const norm = Math.sqrt(row.reduce((sum, value) => sum + value ** 2, 0));
    if (norm > 0) for (let i = 0; i < k; i++) row[i] /= norm;
  }
  return rows;
}
