import type { Automaton } from "./automaton.ts";
import { addChars, complement, union } from "./chars.ts";
import { addNumber } from "./numbers.ts";

/*
 * The parts of JSON. White space is bounded, so that no answer is padded without end: after [, { and , and before ] and }
 * nothing, one space, or a line end and up to 20 spaces or tabs; after : the same; nowhere else.
 */

const MOST_INDENT = 20;

/** What a free string holds as it is. */
const PLAIN = complement(union([[0, 0x1f]], [[0x22, 0x22]], [[0x5c, 0x5c]]));

/** White space or none. */
export function addSpace(automaton: Automaton, from: number, to: number): void {
  automaton.skip(from, to);
  const write = (start: number, end: number) => {
    automaton.bytes(start, 0x20, 0x20, end);
    let at = automaton.node();
    automaton.bytes(start, 0x0a, 0x0a, at);
    automaton.skip(at, end);
    for (let i = 0; i < MOST_INDENT; i++) {
      const next = automaton.node();
      automaton.bytes(at, 0x20, 0x20, next);
      automaton.bytes(at, 0x09, 0x09, next);
      automaton.skip(next, end);
      at = next;
    }
  };
  automaton.call(from, "white space", write, to);
}

/** One character of a string, as it is or by any escape; halves of surrogate pairs are left out. */
function addStringChar(automaton: Automaton, from: number, to: number): void {
  addChars(automaton, from, PLAIN, to, true);
  const write = (start: number, end: number) => {
    addDigits(automaton, start, '"\\/bfnrt', end);
    const [u, d, second, third, fourth] = Array.from({ length: 5 }, () => automaton.node());
    automaton.text(start, "u", u);
    addDigits(automaton, u, HEX.replace(/d/gi, ""), second);
    addDigits(automaton, u, "dD", d);
    addDigits(automaton, d, "01234567", third);
    addDigits(automaton, second, HEX, third);
    addDigits(automaton, third, HEX, fourth);
    addDigits(automaton, fourth, HEX, end);
  };
  const escaped = automaton.node();
  automaton.text(from, "\\", escaped);
  automaton.call(escaped, "escape", write, to);
}

const HEX = "0123456789abcdefABCDEF";

function addDigits(automaton: Automaton, from: number, digits: string, to: number): void {
  for (const digit of digits) automaton.text(from, digit, to);
}

/** A string of any characters, `min` to `max` of them. */
export function addString(automaton: Automaton, from: number, to: number, min = 0, max = Infinity): void {
  const write = (start: number, end: number) => {
    let at = automaton.node();
    automaton.text(start, '"', at);
    const more = (next: number) =>
      automaton.call(at, "character", (a, b) => addStringChar(automaton, a, b), next);
    for (let i = 0; i < min; i++) {
      const next = automaton.node();
      more(next);
      at = next;
    }
    if (max === Infinity) more(at);
    else {
      for (let i = min; i < max; i++) {
        automaton.text(at, '"', end);
        const next = automaton.node();
        more(next);
        at = next;
      }
    }
    automaton.text(at, '"', end);
  };
  automaton.call(from, `string ${min} ${max}`, write, to);
}

export interface List {
  readonly open: string;
  readonly close: string;
  readonly min: number;
  readonly max: number;
  /** Adds the item of an index; from `min` on, all are alike. */
  readonly item: (from: number, to: number, index: number) => void;
}

/** `min` to `max` items in brackets. */
export function addList(automaton: Automaton, from: number, to: number, list: List): void {
  const [opened, closing] = [automaton.node(), automaton.node()];
  automaton.text(from, list.open, opened);
  automaton.text(closing, list.close, to);
  if (list.min === 0) automaton.skip(opened, closing);
  if (list.max === 0) return;
  const inside = automaton.node();
  addSpace(automaton, opened, inside);
  let at = automaton.node();
  list.item(inside, at, 0);
  const another = (next: number, index: number) => {
    const before = automaton.node();
    addComma(automaton, at, before);
    list.item(before, next, index);
    return next;
  };
  for (let i = 1; i < list.min; i++) at = another(automaton.node(), i);
  if (list.max === Infinity) another(at, Math.max(list.min, 1));
  else {
    for (let i = Math.max(list.min, 1); i < list.max; i++) {
      addSpace(automaton, at, closing);
      at = another(automaton.node(), i);
    }
  }
  addSpace(automaton, at, closing);
}

/** A comma and space after it. */
export function addComma(automaton: Automaton, from: number, to: number): void {
  const comma = automaton.node();
  automaton.text(from, ",", comma);
  addSpace(automaton, comma, to);
}

/** A colon and space after it. */
export function addColon(automaton: Automaton, from: number, to: number): void {
  const colon = automaton.node();
  automaton.text(from, ":", colon);
  addSpace(automaton, colon, to);
}

/** Any value at all. */
export function addAny(automaton: Automaton, from: number, to: number): void {
  const write = (start: number, end: number) => {
    automaton.texts(start, ["true", "false", "null"], end);
    addNumber(automaton, start, end);
    addString(automaton, start, end);
    addList(automaton, start, end, {
      ...{ open: "[", close: "]", min: 0, max: Infinity },
      item: (a, b) => addAny(automaton, a, b),
    });
    addAnyObject(automaton, start, end);
  };
  automaton.call(from, "any value", write, to);
}

/** An object of any members. */
export function addAnyObject(automaton: Automaton, from: number, to: number): void {
  const member = (start: number, end: number) => {
    const [key, value] = [automaton.node(), automaton.node()];
    addString(automaton, start, key);
    addColon(automaton, key, value);
    addAny(automaton, value, end);
  };
  addList(automaton, from, to, { open: "{", close: "}", min: 0, max: Infinity, item: member });
}
