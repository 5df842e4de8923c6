import { termsOf } from "./terms.ts";

/** A list of chunks by their numbers, best first. */
export interface Ranking {
  readonly chunks: Uint32Array;
  readonly scores: Float64Array;
}

/** Terms and what each counts for. */
type Query = ReadonlyMap<number, number>;

/** Robertson's saturation of repeated terms, and how far a chunk's length counts. */
const K1 = 1.2;
const B = 0.75;

/** Of relevance feedback: chunks taken for relevant, terms taken from them, and the share of the query's own terms. */
const FEEDBACK_CHUNKS = 5;
const FEEDBACK_TERMS = 20;
const ORIGINAL = 0.7;

/**
 * Full-text search of a fixed list of texts: BM25 (Robertson and Zaragoza 2009, with Lucene's idf, which is never negative) and on
 * top of it RM3 (Abdul-Jaleel et al. 2004): the terms that the first answers have in common are searched too.
 */
export class LexicalIndex {
  readonly size: number;
  readonly #ids: ReadonlyMap<string, number>;
  /** Of chunk c, the terms and counts from `#starts[c]` on; ascending by term. */
  readonly #starts: Uint32Array;
  readonly #terms: Uint32Array;
  readonly #counts: Uint16Array;
  /** Of term t, the chunks and what each is given for it, from `#heads[t]` on. */
  readonly #heads: Uint32Array;
  readonly #chunks: Uint32Array;
  readonly #gains: Float32Array;
  readonly #idf: Float64Array;
  readonly #sums: Float64Array;

  /** `texts` with their titles and headings, whose words count as the text's. */
  constructor(texts: readonly string[]) {
    const ids = new Map<string, number>();
    const rows = texts.map((text) => countTerms(text, ids));
    this.size = texts.length;
    this.#ids = ids;
    this.#starts = new Uint32Array(texts.length + 1);
    for (const [c, row] of rows.entries()) this.#starts[c + 1] = this.#starts[c] + row.size;
    const total = this.#starts[texts.length];
    this.#terms = new Uint32Array(total);
    this.#counts = new Uint16Array(total);
    const frequency = new Uint32Array(ids.size);
    const lengths = rows.map((row, c) => {
      let at = this.#starts[c];
      let length = 0;
      for (const [term, count] of row) {
        this.#terms[at] = term;
        this.#counts[at++] = Math.min(count, 0xffff);
        frequency[term]++;
        length += count;
      }
      return length;
    });
    const mean = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length) || 1;
    this.#idf = Float64Array.from(frequency, (n) => Math.log(1 + (texts.length - n + 0.5) / (n + 0.5)));
    this.#heads = new Uint32Array(ids.size + 1);
    for (let t = 0; t < ids.size; t++) this.#heads[t + 1] = this.#heads[t] + frequency[t];
    this.#chunks = new Uint32Array(total);
    this.#gains = new Float32Array(total);
    const next = this.#heads.slice(0, ids.size);
    for (let c = 0; c < texts.length; c++) {
      const base = K1 * (1 - B + (B * lengths[c]) / mean);
      for (let i = this.#starts[c]; i < this.#starts[c + 1]; i++) {
        const term = this.#terms[i];
        const at = next[term]++;
        this.#chunks[at] = c;
        this.#gains[at] = (this.#idf[term] * this.#counts[i] * (K1 + 1)) / (this.#counts[i] + base);
      }
    }
    this.#sums = new Float64Array(texts.length);
  }

  /** The best `most` chunks that have a term of the query, by BM25. */
  bm25(text: string, most: number): Ranking {
    return this.#search(this.#queryOf(text), most);
  }

  /** The best `most` chunks by BM25 with the terms that the first five have in common. */
  rm3(text: string, most: number): Ranking {
    const query = this.#queryOf(text);
    const first = this.#search(query, FEEDBACK_CHUNKS);
    return first.chunks.length === 0 ? first : this.#search(this.#widened(query, first), most);
  }

  /**
   * The idf of the query's terms that a chunk has, over that of all of them, 0 to 1; a term that no chunk has counts like one of a
   * single chunk.
   */
  coverage(text: string, chunk: number): number {
    const own = new Set(this.#terms.subarray(this.#starts[chunk], this.#starts[chunk + 1]));
    let found = 0;
    let all = 0;
    for (const term of new Set(termsOf(text))) {
      const weight = this.idf(term);
      all += weight;
      if (own.has(this.#ids.get(term) ?? -1)) found += weight;
    }
    return all === 0 ? 0 : found / all;
  }

  /** How much a term tells by how few chunks have it; an unknown one as if none had it. */
  idf(term: string): number {
    const id = this.#ids.get(term);
    return id === undefined ? Math.log(1 + (this.size + 0.5) / 0.5) : this.#idf[id];
  }

  idfOf(term: number): number {
    return this.#idf[term];
  }

  /** The terms of a chunk and how often each occurs. */
  *termsOf(chunk: number): Generator<readonly [term: number, count: number]> {
    for (let i = this.#starts[chunk]; i < this.#starts[chunk + 1]; i++)
      yield [this.#terms[i], this.#counts[i]];
  }

  /** All terms with their numbers. */
  get termIds(): ReadonlyMap<string, number> {
    return this.#ids;
  }

  /** A term's number; undefined of one that no chunk has. */
  termId(term: string): number | undefined {
    return this.#ids.get(term);
  }

  /** How many chunks have a term. */
  frequency(term: number): number {
    return this.#heads[term + 1] - this.#heads[term];
  }

  /** How many terms there are. */
  get terms(): number {
    return this.#ids.size;
  }

  #queryOf(text: string): Query {
    const known = termsOf(text).flatMap((term) => this.#ids.get(term) ?? []);
    const query = new Map<number, number>();
    for (const term of known) query.set(term, (query.get(term) ?? 0) + 1);
    return query;
  }

  #search(query: Query, most: number): Ranking {
    const sums = this.#sums.fill(0);
    for (const [term, weight] of query)
      for (let i = this.#heads[term]; i < this.#heads[term + 1]; i++)
        sums[this.#chunks[i]] += weight * this.#gains[i];
    return best(sums, most);
  }

  #widened(query: Query, { chunks, scores }: Ranking): Query {
    const model = new Map<number, number>();
    const mass = scores.reduce((sum, score) => sum + score, 0);
    for (const [i, chunk] of chunks.entries()) {
      const [from, to] = [this.#starts[chunk], this.#starts[chunk + 1]];
      const length = this.#counts.subarray(from, to).reduce((sum, count) => sum + count, 0);
      for (let at = from; at < to; at++) {
        const share = ((scores[i] / mass) * this.#counts[at]) / length;
        model.set(this.#terms[at], (model.get(this.#terms[at]) ?? 0) + share);
      }
    }
    const chosen = [...model].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, FEEDBACK_TERMS);
    const chosenMass = chosen.reduce((sum, [, share]) => sum + share, 0);
    const length = [...query.values()].reduce((sum, count) => sum + count, 0);
    const widened = new Map<number, number>();
    for (const [term, count] of query) widened.set(term, (ORIGINAL * count) / length);
    for (const [term, share] of chosen)
      widened.set(term, (widened.get(term) ?? 0) + ((1 - ORIGINAL) * share) / chosenMass);
    return widened;
  }
}

function countTerms(text: string, ids: Map<string, number>): Map<number, number> {
  const row = new Map<number, number>();
  for (const term of termsOf(text)) {
    const id = ids.get(term) ?? ids.size;
    ids.set(term, id);
    row.set(id, (row.get(id) ?? 0) + 1);
  }
  return row;
}

/** The highest `most` of the sums above 0; of equal ones the first. */
export function best(sums: Float64Array, most: number): Ranking {
  // A heap of the best so far, worst on top: few of many are asked for.
  const heap: number[] = [];
  const worse = (a: number, b: number) => sums[a] < sums[b] || (sums[a] === sums[b] && a > b);
  const sink = (from: number) => {
    for (let at = from; ; ) {
      const [left, right] = [2 * at + 1, 2 * at + 2];
      let least = at;
      if (left < heap.length && worse(heap[left], heap[least])) least = left;
      if (right < heap.length && worse(heap[right], heap[least])) least = right;
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  };
  for (let chunk = 0; chunk < sums.length; chunk++) {
    if (!(sums[chunk] > 0)) continue;
    if (heap.length < most) {
      heap.push(chunk);
      if (heap.length === most) for (let i = most >> 1; i >= 0; i--) sink(i);
    } else if (worse(heap[0], chunk)) {
      heap[0] = chunk;
      sink(0);
    }
  }
  const chunks = Uint32Array.from(heap.sort((a, b) => (worse(b, a) ? -1 : 1)));
  return { chunks, scores: Float64Array.from(chunks, (chunk) => sums[chunk]) };
}
