import { call, type Expr, number, parse, print, substitute } from "./expr.ts";
import { functions } from "./functions.ts";

const letters = ["a", "b", "c"];
const rules = new Map<string, Expr>();

/** The derivative of `e` by the name `by`, by the chain rule over the derivatives in functions.ts. */
export function derivative(e: Expr, by: string): Expr {
  return visit(e, by, new Map());
}

function visit(e: Expr, by: string, known: Map<string, Expr>): Expr {
  if (e.kind === "number") return number(0);
  if (e.kind === "name") return number(e.name === by ? 1 : 0);
  const key = print(e);
  const before = known.get(key);
  if (before) return before;
  const spec = functions[e.fn];
  if (!spec) throw new Error(`the formula language has no function ${e.fn}`);
  const bound = new Map(e.args.map((arg, i) => [letters[i], arg]));
  let sum = number(0);
  e.args.forEach((arg, i) => {
    const inner = visit(arg, by, known);
    if (inner.kind === "number" && inner.value === 0) return;
    sum = call("+", sum, chain(substitute(rule(spec.derivatives[i]), bound), inner));
  });
  known.set(key, sum);
  return sum;
}

/**
 * outer * inner, where a selection stays outermost: `where(m, x, 0) * y` would turn an infinite y in the part
 * that is not selected into NaN.
 */
function chain(outer: Expr, inner: Expr): Expr {
  if (outer.kind === "call" && outer.fn === "where")
    return select(outer.args, (value) => call("*", value, inner));
  return scale(inner, outer);
}

/** factor * e with selections kept outermost. */
export function scale(e: Expr, factor: Expr): Expr {
  if (e.kind === "call" && e.fn === "where") return select(e.args, (value) => scale(value, factor));
  return call("*", factor, e);
}

function select([mask, yes, no]: readonly Expr[], f: (value: Expr) => Expr): Expr {
  return call("where", mask!, f(yes!), f(no!));
}

function rule(text: string): Expr {
  let e = rules.get(text);
  if (!e) {
    e = parse(text);
    rules.set(text, e);
  }
  return e;
}
