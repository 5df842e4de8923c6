/**
 * The small language of elementwise formulas: numbers, names, + - * /, unary minus, the comparisons
 * `< <= > >= == !=` (which give 0 or 1) and calls of the functions in functions.ts.
 * Expressions are immutable trees; `print` gives the canonical text that `parse` reads back to the same tree.
 */
export type Expr = NumberNode | NameNode | CallNode;
export interface NumberNode {
  readonly kind: "number";
  readonly value: number;
}
export interface NameNode {
  readonly kind: "name";
  readonly name: string;
}
/** A function call; operators are calls of functions named by their sign, unary minus is `neg`. */
export interface CallNode {
  readonly kind: "call";
  readonly fn: string;
  readonly args: readonly Expr[];
}

const PRECEDENCE: Record<string, number> = {
  "==": 1,
  "!=": 1,
  "<": 1,
  "<=": 1,
  ">": 1,
  ">=": 1,
  "+": 2,
  "-": 2,
  "*": 3,
  "/": 3,
};
const COMPARISONS = new Set(["==", "!=", "<", "<=", ">", ">="]);

export const isOperator = (fn: string): boolean => fn in PRECEDENCE;
export const isComparison = (e: Expr): boolean => e.kind === "call" && COMPARISONS.has(e.fn);

export function number(value: number): Expr {
  return { kind: "number", value };
}

export function name(text: string): Expr {
  return { kind: "name", name: text };
}

/** A call, with the identities that symbolic derivatives produce in masses already applied. */
export function call(fn: string, ...args: Expr[]): Expr {
  const [a, b] = args as [Expr, Expr];
  if (fn === "+") {
    if (isNumber(a, 0)) return b;
    if (isNumber(b, 0)) return a;
    if (b.kind === "call" && b.fn === "neg") return call("-", a, b.args[0]);
  } else if (fn === "-") {
    if (isNumber(b, 0)) return a;
    if (isNumber(a, 0)) return call("neg", b);
  } else if (fn === "*") {
    if (isNumber(a, 0) || isNumber(b, 0)) return number(0);
    if (isNumber(a, 1)) return b;
    if (isNumber(b, 1)) return a;
    if (isNumber(b, -1)) return call("neg", a);
  } else if (fn === "/") {
    if (isNumber(a, 0)) return number(0);
    if (isNumber(b, 1)) return a;
  } else if (fn === "neg") {
    if (a.kind === "number") return number(0 - a.value);
    if (a.kind === "call" && a.fn === "neg") return a.args[0];
  } else if (fn === "where" && print(b) === print(args[2])) return b;
  const folded = fold(fn, a, b);
  return folded === null ? { kind: "call", fn, args } : number(folded);
}

export function isNumber(e: Expr | undefined, value: number): boolean {
  return e?.kind === "number" && e.value === value;
}

function fold(fn: string, a: Expr | undefined, b: Expr | undefined): number | null {
  if (a?.kind !== "number" || b?.kind !== "number") return null;
  if (fn === "+") return a.value + b.value;
  if (fn === "-") return a.value - b.value;
  if (fn === "*") return a.value * b.value;
  return null;
}

/** Reads a formula; throws on anything that is not one (formulas are written by us, not by users). */
export function parse(text: string): Expr {
  const tokens = text.match(/\d+\.?\d*(?:e[-+]?\d+)?|\w+|[<>=!]=|[-+*/(),<>]|\S/g) ?? [];
  let at = 0;
  const fail = (): never => {
    throw new Error(`cannot read the formula "${text}" at "${tokens.slice(at).join(" ")}"`);
  };
  const expect = (token: string) => {
    if (tokens[at++] !== token) fail();
  };

  function binary(level: number): Expr {
    let left = unary();
    for (;;) {
      const precedence = PRECEDENCE[tokens[at] ?? ""] ?? 0;
      if (precedence < level || precedence === 0) return left;
      const fn = tokens[at++];
      left = call(fn, left, binary(precedence + 1));
    }
  }

  function unary(): Expr {
    if (tokens[at] !== "-") return primary();
    at++;
    return call("neg", unary());
  }

  function primary(): Expr {
    const token = tokens[at++];
    if (token === "(") {
      const inner = binary(1);
      expect(")");
      return inner;
    }
    if (token === undefined || !/^\w/.test(token)) return fail();
    if (/^\d/.test(token)) return number(Number(token));
    if (tokens[at] !== "(") return name(token);
    at++;
    const args = [binary(1)];
    while (tokens[at] === ",") {
      at++;
      args.push(binary(1));
    }
    expect(")");
    return call(token, ...args);
  }

  const result = binary(1);
  if (at !== tokens.length) fail();
  return result;
}

const printed = new WeakMap<Expr, string>();

/** Canonical text: every operator in parentheses, so that equal trees and only they have equal text. */
export function print(e: Expr): string {
  if (e.kind === "name") return e.name;
  if (e.kind === "number") return e.value < 0 ? `(-${-e.value})` : `${e.value}`;
  let text = printed.get(e);
  if (text === undefined) {
    const args = e.args.map(print);
    if (isOperator(e.fn)) text = `(${args[0]} ${e.fn} ${args[1]})`;
    else text = e.fn === "neg" ? `(-${args[0]})` : `${e.fn}(${args.join(", ")})`;
    printed.set(e, text);
  }
  return text;
}

/** Replaces names by expressions, all at once: what fuses one formula into another. */
export function substitute(e: Expr, by: ReadonlyMap<string, Expr>, done = new Map<Expr, Expr>()): Expr {
  if (e.kind === "number") return e;
  if (e.kind === "name") return by.get(e.name) ?? e;
  // What occurs several times stays one node: formulas would double with every level.
  let made = done.get(e);
  if (!made) {
    made = call(e.fn, ...e.args.map((arg) => substitute(arg, by, done)));
    done.set(e, made);
  }
  return made;
}

/** The names an expression reads. */
export function names(e: Expr): Set<string> {
  const seen = new Set<Expr>();
  const into = new Set<string>();
  const visit = (node: Expr) => {
    if (node.kind === "name") into.add(node.name);
    if (node.kind !== "call" || seen.has(node)) return;
    seen.add(node);
    node.args.forEach(visit);
  };
  visit(e);
  return into;
}

/** Distinct calls of an expression, plain operators counting 1 and functions 8: what recomputing it costs. */
export function cost(e: Expr): number {
  const seen = new Set<string>();
  const visit = (node: Expr): number => {
    if (node.kind !== "call" || seen.has(print(node))) return 0;
    seen.add(print(node));
    const own = isOperator(node.fn) || node.fn === "neg" || node.fn === "where" ? 1 : 8;
    return node.args.reduce((sum, arg) => sum + visit(arg), own);
  };
  return visit(e);
}
