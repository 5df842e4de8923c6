import { ANY, CharAutomaton, type CharSet, complement, union } from "./chars.ts";
import type { Effort } from "./effort.ts";

type Regex =
  | { readonly kind: "set"; readonly set: CharSet }
  | { readonly kind: "sequence" | "either"; readonly items: readonly Regex[] }
  | { readonly kind: "repeat"; readonly item: Regex; readonly min: number; readonly max: number }
  | { readonly kind: "begin" | "end" };

const MOST_NESTED = 64;
const MOST_REPEATS = 10_000;

/**
 * Compiles a regular expression as JavaScript reads it with the flag u: characters, classes, groups, alternatives,
 * quantifiers (greedy or not is the same here), and ^ and $ at the ends of an alternative.
 * @param whole whether the text as a whole must match, or it is enough if a part of it does.
 * @throws RequestError for a syntax error, and for what no finite automaton can do: assertions and references.
 */
export function compileRegex(source: string, whole: boolean, effort: Effort): CharAutomaton {
  const regex = new Parser(source, effort).parse();
  const automaton = new CharAutomaton(effort);
  const anywhere: Regex = { kind: "repeat", item: { kind: "set", set: ANY }, min: 0, max: Infinity };
  for (const alternative of alternatives(regex)) {
    let items = alternative.kind === "sequence" ? [...alternative.items] : [alternative];
    const begins = items.findIndex(({ kind }) => kind !== "begin");
    const begun = begins !== 0 && items.length > 0;
    items = begins < 0 ? [] : items.slice(begins);
    const ends = items.findLastIndex(({ kind }) => kind !== "end");
    const ended = ends < items.length - 1;
    items = items.slice(0, ends + 1);
    if (!whole && !begun) items.unshift(anywhere);
    if (!whole && !ended) items.push(anywhere);
    add(automaton, 0, { kind: "sequence", items }, 1, effort);
  }
  return automaton;
}

/** The alternatives of the whole expression, those within a group around all of it too. */
function alternatives(regex: Regex): readonly Regex[] {
  if (regex.kind === "either") return regex.items.flatMap(alternatives);
  if (regex.kind === "sequence" && regex.items.length === 1) return alternatives(regex.items[0]);
  return [regex];
}

function add(automaton: CharAutomaton, from: number, regex: Regex, to: number, effort: Effort): void {
  switch (regex.kind) {
    case "set":
      automaton.edge(from, regex.set, to);
      break;
    case "either":
      for (const item of regex.items) add(automaton, from, item, to, effort);
      break;
    case "sequence": {
      let at = from;
      for (const item of regex.items) {
        const next = automaton.node();
        add(automaton, at, item, next, effort);
        at = next;
      }
      automaton.skip(at, to);
      break;
    }
    case "repeat":
      addRepeat(automaton, from, regex, to, effort);
      break;
    default:
      throw effort.refused("has a ^ or $ that is not at an end of an alternative");
  }
}

function addRepeat(
  automaton: CharAutomaton,
  from: number,
  { item, min, max }: Extract<Regex, { kind: "repeat" }>,
  to: number,
  effort: Effort,
): void {
  let at = from;
  const once = () => {
    const next = automaton.node();
    add(automaton, at, item, next, effort);
    at = next;
  };
  for (let i = 0; i < min; i++) once();
  if (max === Infinity) {
    const loop = automaton.node();
    automaton.skip(at, loop);
    add(automaton, loop, item, loop, effort);
    at = loop;
  }
  for (let i = min; i < max && max !== Infinity; i++) {
    automaton.skip(at, to);
    once();
  }
  automaton.skip(at, to);
}

const one = (code: number): CharSet => [[code, code]];
const chars = (text: string): CharSet => union(...[...text].map((char) => one(char.codePointAt(0)!)));
const DIGIT: CharSet = [[0x30, 0x39]];
const WORD = union(DIGIT, [[0x41, 0x5a]], [[0x61, 0x7a]], chars("_"));
const SPACE = union([[9, 13]], chars(" \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"), [
  [0x2000, 0x200a],
]);
const LINE_ENDS = chars("\n\r\u2028\u2029");
const CLASSES: Readonly<Record<string, CharSet>> = {
  ...{ d: DIGIT, w: WORD, s: SPACE },
  ...{ D: complement(DIGIT), W: complement(WORD), S: complement(SPACE) },
};
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, "0": 0 };

class Parser {
  readonly #chars: readonly string[];
  readonly #source: string;
  readonly #effort: Effort;
  #at = 0;
  #nested = 0;

  constructor(source: string, effort: Effort) {
    this.#source = source;
    this.#chars = [...source];
    this.#effort = effort;
  }

  parse(): Regex {
    const regex = this.#either();
    if (this.#at < this.#chars.length) throw this.#error("has a ) without its (");
    return regex;
  }

  #either(): Regex {
    const items = [this.#sequence()];
    while (this.#take("|")) items.push(this.#sequence());
    return items.length === 1 ? items[0] : { kind: "either", items };
  }

  #sequence(): Regex {
    const items: Regex[] = [];
    while (this.#at < this.#chars.length && !this.#sees("|") && !this.#sees(")")) {
      items.push(this.#quantified(this.#atom()));
    }
    return { kind: "sequence", items };
  }

  #atom(): Regex {
    const char = this.#chars[this.#at++];
    switch (char) {
      case "^":
        return { kind: "begin" };
      case "$":
        return { kind: "end" };
      case ".":
        return { kind: "set", set: complement(LINE_ENDS) };
      case "(":
        return this.#group();
      case "[":
        return { kind: "set", set: this.#class() };
      case "\\":
        return { kind: "set", set: this.#escape(false) };
      case "*":
      case "+":
      case "?":
      case "{":
      case "}":
      case "]":
        throw this.#error(`has a ${char} with nothing before it; write \\${char} for the character`);
      default:
        return { kind: "set", set: one(char.codePointAt(0)!) };
    }
  }

  #group(): Regex {
    if (this.#take("?") && !this.#take(":")) {
      const named = this.#take("<");
      if (!named && !this.#sees("=") && !this.#sees("!")) {
        throw this.#error("has a group that begins with (? and is no (?:…), nor (?<name>…)");
      }
      if (!named || this.#sees("=") || this.#sees("!")) {
        throw this.#error("looks ahead or behind, which is not supported");
      }
      while (this.#at < this.#chars.length && !this.#sees(">")) this.#at++;
      this.#at++;
    }
    if (++this.#nested > MOST_NESTED) throw this.#error(`has more than ${MOST_NESTED} groups in each other`);
    const inner = this.#either();
    this.#nested--;
    if (!this.#take(")")) throw this.#error("has a ( without its )");
    return inner;
  }

  #quantified(item: Regex): Regex {
    let [min, max] = [1, 1];
    if (this.#take("*")) [min, max] = [0, Infinity];
    else if (this.#take("+")) [min, max] = [1, Infinity];
    else if (this.#take("?")) [min, max] = [0, 1];
    else if (this.#take("{")) {
      const rest = this.#chars.slice(this.#at, this.#at + 32).join("");
      const found = /^(\d+)(,(\d*))?\}/.exec(rest);
      if (found === null) throw this.#error("has a { that begins no quantifier; write \\{ for the character");
      this.#at += found[0].length;
      min = Number(found[1]);
      max = found[2] === undefined ? min : found[3] === "" ? Infinity : Number(found[3]);
      if (min > max) throw this.#error(`has a quantifier out of order, {${found[0]}`);
    } else return item;
    if (min > MOST_REPEATS || (max !== Infinity && max > MOST_REPEATS)) {
      throw this.#error(`repeats more than ${MOST_REPEATS} times`);
    }
    this.#take("?");
    if (this.#sees("*") || this.#sees("+") || this.#sees("?") || this.#sees("{")) {
      throw this.#error("has a quantifier after a quantifier");
    }
    if (item.kind === "begin" || item.kind === "end") throw this.#error("repeats ^ or $");
    return { kind: "repeat", item, min, max };
  }

  #class(): CharSet {
    const negated = this.#take("^");
    const sets: CharSet[] = [];
    while (!this.#take("]")) {
      const low = this.#classAtom();
      const isRange = this.#sees("-") && this.#chars[this.#at + 1] !== "]";
      if (!isRange) {
        sets.push(low);
        continue;
      }
      this.#at++;
      const high = this.#classAtom();
      const [[from, fromEnd], [to, toEnd]] = [low[0], high[0]];
      if (low.length !== 1 || high.length !== 1 || from !== fromEnd || to !== toEnd || from > to) {
        throw this.#error("has a range out of order in a class");
      }
      sets.push([[from, to]]);
    }
    const set = union(...sets);
    return negated ? complement(set) : set;
  }

  #classAtom(): CharSet {
    const char = this.#chars[this.#at++];
    if (char === undefined) throw this.#error("has a [ without its ]");
    return char === "\\" ? this.#escape(true) : one(char.codePointAt(0)!);
  }

  #escape(inClass: boolean): CharSet {
    const char = this.#chars[this.#at++];
    if (char === undefined) throw this.#error("ends in a backslash");
    if (CLASSES[char] !== undefined) return CLASSES[char];
    if (inClass && char === "b") return one(8);
    if (char === "0" && /\d/.test(this.#chars[this.#at] ?? "")) throw this.#error("has an octal escape");
    if (CONTROLS[char] !== undefined) return one(CONTROLS[char]);
    if (char === "c") {
      const letter = this.#chars[this.#at++] ?? "";
      if (!/^[a-zA-Z]$/.test(letter)) throw this.#error("has a \\c without a letter");
      return one(letter.charCodeAt(0) % 32);
    }
    if (char === "x" || char === "u") return one(this.#code(char === "x" ? 2 : 4));
    if (/[bBpPk1-9]/.test(char)) throw this.#error(`uses \\${char}, which is not supported`);
    if (/[a-zA-Z]/.test(char)) throw this.#error(`has an unknown escape, \\${char}`);
    return one(char.codePointAt(0)!);
  }

  /** Of \xHH, \uHHHH (two of them may be a pair) or \u{H…}. */
  #code(digits: number): number {
    const rest = this.#chars.slice(this.#at, this.#at + 10).join("");
    const braced = digits === 4 ? /^\{([0-9a-fA-F]{1,6})\}/.exec(rest) : null;
    const pair = digits === 4 ? /^(d[89ab]..)\\u(d[c-f]..)/i.exec(rest) : null;
    const found = braced ?? pair ?? new RegExp(`^([0-9a-fA-F]{${digits}})`).exec(rest);
    const units = (found?.slice(1) ?? []).map((hex) => Number.parseInt(hex, 16));
    const code = units.length === 2 ? String.fromCharCode(...units).codePointAt(0)! : units[0];
    if (found === null || !(code <= 0x10ffff)) throw this.#error("has an escape without its digits");
    this.#at += found[0].length;
    return code;
  }

  #sees(char: string): boolean {
    return this.#chars[this.#at] === char;
  }

  #take(char: string): boolean {
    const seen = this.#sees(char);
    if (seen) this.#at++;
    return seen;
  }

  #error(problem: string) {
    const shown = this.#source.length > 80 ? `${this.#source.slice(0, 80)}…` : this.#source;
    return this.#effort.refused(`has a regular expression, ${JSON.stringify(shown)}, that ${problem}`);
  }
}
