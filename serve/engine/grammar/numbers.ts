import type { Automaton } from "./automaton.ts";
import { CharAutomaton, type CharSet } from "./chars.ts";
import type { Effort } from "./effort.ts";
import { compileRegex } from "./regex.ts";

/** What a schema says of numbers. */
export interface NumberBounds {
  readonly integer?: boolean;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  /** A whole number; only for integers. */
  readonly multipleOf?: number;
}

/*
 * Digits are bounded: a number without end would never be one, and of more than 15 digits two may be the same in JSON's
 * usual float64, so that what is above a bound as text would not be above it when read.
 */
const INTEGER = "0|-?[1-9]\\d{0,14}";
const NUMBER = "-?(0|[1-9]\\d{0,14})(\\.\\d{1,15})?([eE][+-]?\\d{1,2})?";
const BOUNDED = "-?(0|[1-9]\\d{0,8})(\\.\\d{1,6})?|-?[1-9]\\d{9,14}";

/** Numbers within bounds. */
export function addNumber(automaton: Automaton, from: number, to: number, bounds: NumberBounds = {}): void {
  const { effort } = automaton;
  const { integer, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = bounds;
  const write = (start: number, end: number) => {
    const limits = [
      minimum === undefined ? null : atLeast(effort, minimum, false),
      exclusiveMinimum === undefined ? null : atLeast(effort, exclusiveMinimum, true),
      maximum === undefined ? null : atMost(effort, maximum, false),
      exclusiveMaximum === undefined ? null : atMost(effort, exclusiveMaximum, true),
    ].filter((limit) => limit !== null);
    const form = integer ? INTEGER : limits.length === 0 ? NUMBER : BOUNDED;
    const bounded = limits.reduce(
      (a, b) => a.and(b.deterministic()),
      compileRegex(form, true, effort).deterministic(),
    );
    const all = multipleOf === undefined ? bounded : bounded.and(divisible(effort, multipleOf));
    all.lower(automaton, start, end, false);
  };
  const key = [integer === true, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf];
  automaton.call(from, `number ${key.join()}`, write, to);
}

function digits(lo: number, hi: number): CharSet {
  return lo > hi ? [] : [[0x30 + lo, 0x30 + hi]];
}
const DIGIT = digits(0, 9);
const POINT: CharSet = [[0x2e, 0x2e]];
const MINUS: CharSet = [[0x2d, 0x2d]];

/** Signed decimals of at least `bound`, or above it. */
function atLeast(effort: Effort, bound: number, strict: boolean): CharAutomaton {
  const automaton = new CharAutomaton(effort);
  if (bound >= 0) addAbove(automaton, 0, decimal(bound), strict);
  else {
    addAbove(automaton, 0, decimal(0), false);
    addBelow(automaton, after(automaton, 0, MINUS), decimal(-bound), strict);
  }
  return automaton;
}

/** Signed decimals of at most `bound`, or below it. */
function atMost(effort: Effort, bound: number, strict: boolean): CharAutomaton {
  const automaton = new CharAutomaton(effort);
  const negative = after(automaton, 0, MINUS);
  if (bound < 0) addAbove(automaton, negative, decimal(-bound), strict);
  else {
    // -0 is not below 0.
    addAbove(automaton, negative, decimal(0), bound === 0 && strict);
    addBelow(automaton, 0, decimal(bound), strict);
  }
  return automaton;
}

/** Whole numbers that `divisor` divides. */
function divisible(effort: Effort, divisor: number): CharAutomaton {
  const automaton = new CharAutomaton(effort);
  const rest = Array.from({ length: divisor }, () => automaton.node());
  automaton.skip(0, rest[0]);
  automaton.edge(0, MINUS, rest[0]);
  for (const [r, node] of rest.entries()) {
    for (let digit = 0; digit < 10; digit++) {
      automaton.edge(node, digits(digit, digit), rest[(r * 10 + digit) % divisor]);
    }
  }
  automaton.skip(rest[0], 1);
  return automaton;
}

/** The digits of a number of at least 0 before and after the point, with no zeros at the outer ends. */
function decimal(value: number): { whole: number[]; part: number[] } {
  const [mantissa, exponent = "0"] = String(value).split("e");
  const [whole, part = ""] = mantissa.split(".");
  const point = whole.length + Number(exponent);
  const all = (whole + part).padEnd(point, "0").padStart((whole + part).length - Math.min(point, 0), "0");
  const at = Math.max(point, 0);
  return {
    whole: [
      ...all
        .slice(0, at)
        .replace(/^0+(?=\d)/, "")
        .padStart(1, "0"),
    ].map(Number),
    part: [...all.slice(at).replace(/0+$/, "")].map(Number),
  };
}

function after(automaton: CharAutomaton, from: number, set: CharSet): number {
  const next = automaton.node();
  automaton.edge(from, set, next);
  return next;
}

/** Any digits of a fraction that is begun, or none: to the end. */
function addRest(automaton: CharAutomaton, from: number): void {
  const loop = automaton.node();
  automaton.skip(from, loop);
  automaton.edge(loop, DIGIT, loop);
  automaton.skip(loop, 1);
}

/** The end of a number after its whole part, with a fraction or without. */
function addFraction(automaton: CharAutomaton, from: number): void {
  automaton.skip(from, 1);
  addRest(automaton, after(automaton, after(automaton, from, POINT), DIGIT));
}

/** `count` digits and any fraction. */
function addFree(automaton: CharAutomaton, from: number, count: number): void {
  let at = from;
  for (let i = 0; i < count; i++) at = after(automaton, at, DIGIT);
  addFraction(automaton, at);
}

type Decimal = ReturnType<typeof decimal>;

/** Unsigned decimals, without needless zeros in front, of at least a bound, or above it. */
function addAbove(automaton: CharAutomaton, from: number, { whole, part }: Decimal, strict: boolean): void {
  let longer = after(automaton, from, digits(1, 9));
  for (let i = 0; i < whole.length; i++) longer = after(automaton, longer, DIGIT);
  const more = automaton.node();
  automaton.skip(longer, more);
  automaton.edge(more, DIGIT, more);
  addFraction(automaton, more);
  let equal = from;
  whole.forEach((digit, i) => {
    const above = digits(digit + 1, 9);
    if (above.length > 0) addFree(automaton, after(automaton, equal, above), whole.length - 1 - i);
    equal = after(automaton, equal, digits(digit, digit));
  });
  if (!strict && part.length === 0) {
    addFraction(automaton, equal);
    return;
  }
  equal = after(automaton, equal, POINT);
  for (const digit of part) {
    const above = digits(digit + 1, 9);
    if (above.length > 0) addRest(automaton, after(automaton, equal, above));
    equal = after(automaton, equal, digits(digit, digit));
  }
  if (!strict) {
    addRest(automaton, equal);
    return;
  }
  const zeros = automaton.node();
  automaton.skip(equal, zeros);
  automaton.edge(zeros, digits(0, 0), zeros);
  addRest(automaton, after(automaton, zeros, digits(1, 9)));
}

/** Unsigned decimals of at most a bound, or below it. */
function addBelow(automaton: CharAutomaton, from: number, { whole, part }: Decimal, strict: boolean): void {
  for (let length = 1; length < whole.length; length++) {
    addFree(automaton, after(automaton, from, digits(length === 1 ? 0 : 1, 9)), length - 1);
  }
  let equal = from;
  whole.forEach((digit, i) => {
    const below = digits(i === 0 && whole.length > 1 ? 1 : 0, digit - 1);
    if (below.length > 0) addFree(automaton, after(automaton, equal, below), whole.length - 1 - i);
    equal = after(automaton, equal, digits(digit, digit));
  });
  if (part.length > 0 || !strict) automaton.skip(equal, 1);
  equal = after(automaton, equal, POINT);
  part.forEach((digit, i) => {
    const below = digits(0, digit - 1);
    if (below.length > 0) addRest(automaton, after(automaton, equal, below));
    equal = after(automaton, equal, digits(digit, digit));
    if (i < part.length - 1 || !strict) automaton.skip(equal, 1);
  });
  if (strict) return;
  const zeros = after(automaton, equal, digits(0, 0));
  automaton.edge(zeros, digits(0, 0), zeros);
  automaton.skip(zeros, 1);
}
