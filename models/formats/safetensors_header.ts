/**
 * A reader for exactly the JSON that a safetensors header may hold. JSON.parse would silently keep the last of two equal
 * keys (two readers could then see two different files), round integers above 2^53, and accept any nesting.
 */

export interface ScannedEntry {
  name: string;
  dtype: string;
  shape: number[];
  begin: number;
  end: number;
}

export interface ScannedHeader {
  metadata: Record<string, string>;
  entries: ScannedEntry[];
}

/** A name fit for a one-line message: quoted, control characters escaped, cut at 80 characters. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
}

/** The most axes a tensor may have; a longer shape is an attack or an accident, not a tensor. */
const MAX_RANK = 64;

/** Reads a header. `fail` turns a description of the problem into the error to throw. */
export function scanHeader(text: string, fail: (problem: string) => Error): ScannedHeader {
  if (text[0] !== "{") throw fail("the header does not start with {");
  const scanner = new Scanner(text, fail);
  const header: ScannedHeader = { metadata: {}, entries: [] };
  scanner.object("the header", (name) => {
    if (name === "__metadata__") {
      const pairs: [string, string][] = [];
      scanner.object("__metadata__", (key) =>
        pairs.push([key, scanner.string(`__metadata__ ${quoted(key)}`)]),
      );
      header.metadata = Object.fromEntries(pairs);
    } else {
      header.entries.push(scanEntry(scanner, name, fail));
    }
  });
  scanner.end();
  return header;
}

function scanEntry(scanner: Scanner, name: string, fail: (problem: string) => Error): ScannedEntry {
  const where = `tensor ${quoted(name)}`;
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  scanner.object(where, (field) => {
    if (field === "dtype") dtype = scanner.string(`${where} dtype`);
    else if (field === "shape") shape = scanner.integers(`${where} shape`);
    else if (field === "data_offsets") offsets = scanner.integers(`${where} data_offsets`);
    else throw fail(`${where} has the unknown field ${quoted(field)}`);
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    throw fail(`${where} lacks dtype, shape or data_offsets`);
  }
  if (offsets.length !== 2) throw fail(`${where} needs two data_offsets`);
  return { name, dtype, shape, begin: offsets[0], end: offsets[1] };
}

/** A JSON whole number without sign, fraction or exponent. */
const WHOLE_NUMBER = /(?:0|[1-9]\d{0,19})(?![\d.eE])/y;

class Scanner {
  readonly #text: string;
  readonly #fail: (problem: string) => Error;
  #at = 0;

  constructor(text: string, fail: (problem: string) => Error) {
    this.#text = text;
    this.#fail = fail;
  }

  /** Reads `{…}`; `member` is called after each key and colon and must read the value. Repeated keys are refused. */
  object(where: string, member: (key: string) => void): void {
    this.#expect("{", where);
    const seen = new Set<string>();
    if (this.#take("}")) return;
    do {
      const key = this.string(`a key in ${where}`);
      if (seen.has(key)) throw this.#fail(`${where} has the key ${quoted(key)} twice`);
      seen.add(key);
      this.#expect(":", `${where}, ${quoted(key)}`);
      member(key);
    } while (this.#take(","));
    this.#expect("}", where);
  }

  string(where: string): string {
    this.#skipSpace();
    const start = this.#at;
    this.#expect('"', where);
    for (;;) {
      const close = this.#text.indexOf('"', this.#at);
      if (close < 0) throw this.#fail(`${where} has no closing quote`);
      this.#at = close + 1;
      let backslashes = 0;
      while (this.#text[close - 1 - backslashes] === "\\") backslashes++;
      if (backslashes % 2 === 0) break;
    }
    try {
      return JSON.parse(this.#text.slice(start, this.#at)) as string;
    } catch {
      throw this.#fail(`${where} is not a JSON string`);
    }
  }

  /** Reads `[…]` of whole numbers from 0 to 2^53 - 1. */
  integers(where: string): number[] {
    this.#expect("[", where);
    const values: number[] = [];
    if (this.#take("]")) return values;
    do {
      values.push(this.#integer(where));
      if (values.length > MAX_RANK) throw this.#fail(`${where} has more than ${MAX_RANK} numbers`);
    } while (this.#take(","));
    this.#expect("]", where);
    return values;
  }

  end(): void {
    this.#skipSpace();
    if (this.#at < this.#text.length) throw this.#fail("the header goes on after its closing brace");
  }

  #integer(where: string): number {
    this.#skipSpace();
    WHOLE_NUMBER.lastIndex = this.#at;
    const match = WHOLE_NUMBER.exec(this.#text);
    const value = match === null ? NaN : Number(match[0]);
    if (!Number.isSafeInteger(value)) {
      throw this.#fail(
        `${where} holds ${quoted(this.#text.slice(this.#at, this.#at + 24))}, not a whole number below 2^53`,
      );
    }
    this.#at = WHOLE_NUMBER.lastIndex;
    return value;
  }

  #skipSpace(): void {
    while (" \n\r\t".includes(this.#text[this.#at] ?? "x")) this.#at++;
  }

  #take(character: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #expect(character: string, where: string): void {
    if (this.#take(character)) return;
    const found = this.#at < this.#text.length ? quoted(this.#text[this.#at]) : "the end";
    throw this.#fail(
      `expected ${character} in ${where} but found ${found} at byte ${this.#at} of the header`,
    );
  }
}
