import type { Automaton } from "./automaton.ts";
import type { Effort } from "./effort.ts";

/** Code points as ranges [lo, hi], ascending and apart from each other. */
export type CharSet = readonly (readonly [lo: number, hi: number])[];

const LAST = 0x10ffff;
export const ANY: CharSet = [[0, LAST]];

export function union(...sets: CharSet[]): CharSet {
  const merged: [number, number][] = [];
  for (const [lo, hi] of sets.flat().sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last !== undefined && lo <= last[1] + 1) last[1] = Math.max(last[1], hi);
    else merged.push([lo, hi]);
  }
  return merged;
}

export function complement(set: CharSet): CharSet {
  const gaps: [number, number][] = [];
  let from = 0;
  for (const [lo, hi] of set) {
    if (lo > from) gaps.push([from, lo - 1]);
    from = hi + 1;
  }
  if (from <= LAST) gaps.push([from, LAST]);
  return gaps;
}

function intersection(a: CharSet, b: CharSet): CharSet {
  const common: [number, number][] = [];
  for (const [lo, hi] of a) {
    for (const [from, to] of b) {
      if (from <= hi && to >= lo) common.push([Math.max(lo, from), Math.min(hi, to)]);
    }
  }
  return common;
}

/** A nondeterministic automaton over characters, from node 0 to node 1. */
export class CharAutomaton {
  readonly nodes: { edges: { set: CharSet; to: number }[]; skips: number[] }[] = [];
  readonly #effort: Effort;

  constructor(effort: Effort) {
    this.#effort = effort;
    this.node();
    this.node();
  }

  node(): number {
    this.#effort.spend();
    return this.nodes.push({ edges: [], skips: [] }) - 1;
  }

  edge(from: number, set: CharSet, to: number): void {
    this.#effort.spend(set.length);
    if (set.length > 0) this.nodes[from].edges.push({ set, to });
  }

  skip(from: number, to: number): void {
    this.#effort.spend();
    this.nodes[from].skips.push(to);
  }

  /** Texts that both automata accept. */
  and(other: CharAutomaton): CharAutomaton {
    const both = new CharAutomaton(this.#effort);
    // By a number of the pair: both starts, both ends.
    const known = new Map([
      [0, 0],
      [this.nodes.length + 1, 1],
    ]);
    const open: [number, number][] = [[0, 0]];
    const place = (a: number, b: number) => {
      const key = b * this.nodes.length + a;
      let node = known.get(key);
      if (node === undefined) {
        node = both.node();
        known.set(key, node);
        open.push([a, b]);
      }
      return node;
    };
    for (let pair = open.pop(); pair !== undefined; pair = open.pop()) {
      const [a, b] = pair;
      const from = place(a, b);
      for (const to of this.nodes[a].skips) both.skip(from, place(to, b));
      for (const to of other.nodes[b].skips) both.skip(from, place(a, to));
      for (const left of this.nodes[a].edges) {
        for (const right of other.nodes[b].edges) {
          this.#effort.spend(left.set.length * right.set.length);
          const set = intersection(left.set, right.set);
          if (set.length > 0) both.edge(from, set, place(left.to, right.to));
        }
      }
    }
    return both;
  }

  /** The same texts, each in one way only: there may be many more nodes, or fewer. */
  deterministic(): CharAutomaton {
    const result = new CharAutomaton(this.#effort);
    const known = new Map<string, number>();
    const open: { at: number; places: readonly number[] }[] = [];
    const place = (reached: Iterable<number>) => {
      const places = this.#closure(reached);
      const key = places.join();
      let at = known.get(key);
      if (at === undefined) {
        at = known.size === 0 ? 0 : result.node();
        known.set(key, at);
        open.push({ at, places });
      }
      return at;
    };
    place([0]);
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const { at, places } = next;
      if (places.includes(1)) result.skip(at, 1);
      const edges = places.flatMap((node) => this.nodes[node].edges);
      const starts = edges.flatMap(({ set }) => set.flatMap(([lo, hi]) => [lo, hi + 1]));
      const cuts = [...new Set(starts)].sort((a, b) => a - b);
      this.#effort.spend(cuts.length * edges.length);
      const sets = new Map<number, CharSet>();
      for (const [i, lo] of cuts.slice(0, -1).entries()) {
        const reached = edges.filter(({ set }) => set.some(([from, to]) => from <= lo && lo <= to));
        if (reached.length === 0) continue;
        const to = place(reached.map((edge) => edge.to));
        sets.set(to, union(sets.get(to) ?? [], [[lo, cuts[i + 1] - 1]]));
      }
      for (const [to, set] of sets) result.edge(at, set, to);
    }
    return result;
  }

  #closure(reached: Iterable<number>): number[] {
    const places = new Set(reached);
    for (const node of places) for (const to of this.nodes[node].skips) places.add(to);
    this.#effort.spend(places.size);
    return [...places].sort((a, b) => a - b);
  }

  /** The nodes from which the end can be reached. */
  #alive(): Set<number> {
    const before: number[][] = this.nodes.map(() => []);
    this.nodes.forEach(({ edges, skips }, from) => {
      for (const { to } of edges) before[to].push(from);
      for (const to of skips) before[to].push(from);
    });
    const alive = new Set([1]);
    for (const node of alive) for (const from of before[node]) alive.add(from);
    return alive;
  }

  /**
   * Adds its paths to an automaton over bytes.
   * @param inJson characters are written as within a JSON string, escaped where they must be and only there.
   */
  lower(automaton: Automaton, from: number, to: number, inJson: boolean): void {
    const alive = this.#alive();
    const places = this.nodes.map((_, i) => {
      if (i < 2) return i === 0 ? from : to;
      return alive.has(i) ? automaton.node() : -1;
    });
    this.nodes.forEach(({ edges, skips }, i) => {
      if (places[i] < 0) return;
      for (const { set, to: next } of edges) {
        if (places[next] >= 0) addChars(automaton, places[i], set, places[next], inJson);
      }
      for (const next of skips) if (places[next] >= 0) automaton.skip(places[i], places[next]);
    });
  }
}

/** `min` to `max` characters. */
export function counted(effort: Effort, min: number, max: number): CharAutomaton {
  const automaton = new CharAutomaton(effort);
  let at = 0;
  for (let i = 0; i < min; i++) {
    const next = automaton.node();
    automaton.edge(at, ANY, next);
    at = next;
  }
  if (max === Infinity) {
    const loop = automaton.node();
    automaton.skip(at, loop);
    automaton.edge(loop, ANY, loop);
    at = loop;
  } else {
    for (let i = min; i < max; i++) {
      const next = automaton.node();
      automaton.edge(at, ANY, next);
      automaton.skip(at, 1);
      at = next;
    }
  }
  automaton.skip(at, 1);
  return automaton;
}

const CONTROL: CharSet = [[0, 0x1f]];
const QUOTED: CharSet = [
  [0x22, 0x22],
  [0x5c, 0x5c],
];
const ASCII: CharSet = [[0, 0x7f]];
/** Halves of characters in UTF-16, which UTF-8 has no bytes for. */
const SURROGATES: CharSet = [[0xd800, 0xdfff]];
const MUST_ESCAPE = union(CONTROL, QUOTED);
const PLAIN = intersection(ASCII, complement(MUST_ESCAPE));

/** Adds one character of a set. What takes several bytes is a rule, shared by all places that allow the same. */
export function addChars(
  automaton: Automaton,
  from: number,
  set: CharSet,
  to: number,
  inJson: boolean,
): void {
  const direct = intersection(set, inJson ? PLAIN : ASCII);
  for (const [lo, hi] of direct) automaton.bytes(from, lo, hi, to);
  const wide = intersection(set, complement(union(ASCII, SURROGATES)));
  const escaped = inJson ? intersection(set, MUST_ESCAPE) : [];
  if (wide.length + escaped.length === 0) return;
  automaton.call(
    from,
    `characters ${wide.join(";")} escaped ${escaped.join(";")}`,
    (start, end) => {
      for (const [lo, hi] of wide) addUtf8(automaton, start, lo, hi, end);
      const codes = escaped.flatMap(([lo, hi]) => Array.from({ length: hi - lo + 1 }, (_, i) => lo + i));
      automaton.texts(
        start,
        codes.map((code) => JSON.stringify(String.fromCharCode(code)).slice(1, -1)),
        end,
      );
    },
    to,
  );
}

/** Adds the bytes of the code points lo..hi, all above 0x7f. */
function addUtf8(automaton: Automaton, from: number, lo: number, hi: number, to: number): void {
  for (const [least, most] of [
    [0x80, 0x7ff],
    [0x800, 0xffff],
    [0x10000, LAST],
  ]) {
    const [first, last] = [Math.max(lo, least), Math.min(hi, most)];
    if (first <= last) addSpan(automaton, from, utf8(first), utf8(last), to);
  }
}

const utf8 = (code: number) => [...new TextEncoder().encode(String.fromCodePoint(code))];

/** Adds all sequences of one length between two, in the order of their bytes. */
function addSpan(automaton: Automaton, from: number, lo: number[], hi: number[], to: number): void {
  if (lo.length === 1) {
    automaton.bytes(from, lo[0], hi[0], to);
    return;
  }
  const tail = (first: number, last: number, low: number[], high: number[]) => {
    const next = automaton.node();
    automaton.bytes(from, first, last, next);
    addSpan(automaton, next, low, high, to);
  };
  const [lowest, highest] = [lo.slice(1).map(() => 0x80), lo.slice(1).map(() => 0xbf)];
  let [first, last] = [lo[0], hi[0]];
  if (first === last) {
    tail(first, last, lo.slice(1), hi.slice(1));
    return;
  }
  if (lo.slice(1).some((byte) => byte !== 0x80)) {
    tail(first, first, lo.slice(1), highest);
    first++;
  }
  if (hi.slice(1).some((byte) => byte !== 0xbf)) {
    tail(last, last, lowest, hi.slice(1));
    last--;
  }
  if (first <= last) tail(first, last, lowest, highest);
}
