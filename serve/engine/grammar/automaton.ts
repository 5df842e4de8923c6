import type { Effort } from "./effort.ts";

/** Nodes of one automaton. */
const MOST_NODES = 10_000;

/** Bytes lo..hi lead to node `to`. */
export interface ByteEdge {
  readonly lo: number;
  readonly hi: number;
  readonly to: number;
}

/** All that a rule stands for leads to node `to`. */
interface CallEdge {
  readonly rule: number;
  readonly to: number;
}

export interface Node {
  bytes: ByteEdge[];
  skips: number[];
  calls: CallEdge[];
}

interface Rule {
  readonly start: number;
  readonly end: number;
}

/**
 * A recursive transition network over bytes (Woods 1970): a nondeterministic automaton whose edges may also call rules,
 * automata of their own, so that recursive forms fit and repeated parts are stored once. The builder's methods add paths
 * from one node to another; nothing leaves a rule's end and nothing returns to its start.
 */
export class Automaton {
  readonly nodes: Node[] = [];
  readonly rules: Rule[] = [];
  readonly #ruleByKey = new Map<unknown, number>();
  /** Rules that are called and not yet written: one after the other, so that no chain of them overflows the stack. */
  readonly #unwritten: (() => void)[] = [];
  readonly effort: Effort;

  constructor(effort: Effort) {
    this.effort = effort;
  }

  node(): number {
    if (this.nodes.length >= MOST_NODES) {
      throw this.effort.refused(
        `needs more than ${MOST_NODES} states: allow fewer or shorter alternatives and repetitions`,
      );
    }
    return this.nodes.push({ bytes: [], skips: [], calls: [] }) - 1;
  }

  bytes(from: number, lo: number, hi: number, to: number): void {
    this.effort.spend();
    this.nodes[from].bytes.push({ lo, hi, to });
  }

  skip(from: number, to: number): void {
    this.effort.spend();
    this.nodes[from].skips.push(to);
  }

  /** One text, with no escapes. */
  text(from: number, text: string | Uint8Array, to: number): void {
    const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
    if (bytes.length === 0) this.skip(from, to);
    let at = from;
    bytes.forEach((byte, i) => {
      const next = i === bytes.length - 1 ? to : this.node();
      this.bytes(at, byte, byte, next);
      at = next;
    });
  }

  /** Any of several texts; common beginnings are shared. */
  texts(from: number, texts: readonly string[], to: number): void {
    const children = new Map<number, Map<number, number>>();
    for (const text of texts) {
      let at = from;
      for (const byte of new TextEncoder().encode(text)) {
        const known = children.get(at) ?? new Map<number, number>();
        children.set(at, known);
        let next = known.get(byte);
        if (next === undefined) {
          next = this.node();
          known.set(byte, next);
          this.bytes(at, byte, byte, next);
        }
        at = next;
      }
      this.skip(at, to);
    }
  }

  /**
   * What a rule stands for, which must not be the empty text.
   * @param key equal keys are one rule.
   * @param write adds the rule's paths from its start to its end; it may call the rule itself.
   */
  call(from: number, key: unknown, write: (start: number, end: number) => void, to: number): void {
    this.effort.spend();
    this.nodes[from].calls.push({ rule: this.rule(key, write), to });
  }

  rule(key: unknown, write: (start: number, end: number) => void): number {
    const known = this.#ruleByKey.get(key);
    if (known !== undefined) return known;
    const [start, end] = [this.node(), this.node()];
    const rule = this.rules.push({ start, end }) - 1;
    this.#ruleByKey.set(key, rule);
    this.#unwritten.push(() => write(start, end));
    return rule;
  }

  /**
   * Writes all rules and takes away every path that cannot end, so that whatever is begun can be finished.
   * @param usable whether a byte can be written at all.
   * @throws RequestError where nothing is left of `root`, or a rule begins with itself.
   */
  finish(root: number, usable: (byte: number) => boolean): void {
    for (let write = this.#unwritten.pop(); write !== undefined; write = this.#unwritten.pop()) write();
    for (const node of this.nodes) {
      node.bytes = node.bytes.flatMap(({ lo, hi, to }) =>
        runs(lo, hi, usable).map((run) => ({ ...run, to })),
      );
    }
    const alive = this.#alive();
    const ends = (rule: number) => alive[this.rules[rule].start] === 1;
    for (const node of this.nodes) {
      node.bytes = node.bytes.filter(({ to }) => alive[to]);
      node.skips = node.skips.filter((to) => alive[to]);
      node.calls = node.calls.filter(({ rule, to }) => alive[to] && ends(rule));
    }
    if (!ends(root)) {
      throw this.effort.refused("cannot be fulfilled: no text that ends has this form");
    }
    this.#refuseEndlessCalls();
  }

  /** The nodes from which the end of their rule can be reached. */
  #alive(): Uint8Array {
    const alive = new Uint8Array(this.nodes.length);
    const before: number[][] = this.nodes.map(() => []);
    /** Calls that wait until their rule can end, by the rule's start. */
    const waiting = new Map<number, { from: number; to: number }[]>();
    this.nodes.forEach(({ bytes, skips, calls }, from) => {
      for (const { to } of bytes) before[to].push(from);
      for (const to of skips) before[to].push(from);
      for (const { rule, to } of calls) {
        const { start } = this.rules[rule];
        const known = waiting.get(start);
        if (known === undefined) waiting.set(start, [{ from, to }]);
        else known.push({ from, to });
      }
    });
    const open: number[] = [];
    const reach = (node: number) => {
      if (alive[node] === 1) return;
      alive[node] = 1;
      open.push(node);
    };
    for (const { end } of this.rules) reach(end);
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      for (const from of before[node]) reach(from);
      // A rule that can end makes its calls edges like any other.
      for (const { from, to } of waiting.get(node) ?? []) {
        before[to].push(from);
        if (alive[to]) reach(from);
      }
    }
    return alive;
  }

  /** A rule that calls itself before any byte would call for ever. */
  #refuseEndlessCalls(): void {
    const state = new Uint8Array(this.rules.length);
    const visit = (rule: number): void => {
      if (state[rule] === 2) return;
      if (state[rule] === 1) {
        throw this.effort.refused("refers to itself with nothing in between");
      }
      state[rule] = 1;
      const seen = new Set([this.rules[rule].start]);
      for (const at of seen) {
        for (const to of this.nodes[at].skips) seen.add(to);
        for (const { rule: called } of this.nodes[at].calls) visit(called);
      }
      state[rule] = 2;
    };
    for (const rule of this.rules.keys()) visit(rule);
  }
}

/** The runs of usable bytes in lo..hi. */
function runs(lo: number, hi: number, usable: (byte: number) => boolean): { lo: number; hi: number }[] {
  const found: { lo: number; hi: number }[] = [];
  let begin = -1;
  for (let byte = lo; byte <= hi + 1; byte++) {
    if (byte <= hi && usable(byte)) begin = begin < 0 ? byte : begin;
    else if (begin >= 0) {
      found.push({ lo: begin, hi: byte - 1 });
      begin = -1;
    }
  }
  return found;
}
