import { type DType, fitsDType, isFloat } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { type Expr, name, parse, substitute } from "./expr.ts";
import { functions } from "./functions.ts";

/** One elementwise op; table.ts has a line for each. */
export interface Row {
  readonly name: string;
  /** Tensors in order; any of them may be given as a number in the attributes instead. */
  readonly args: readonly string[];
  /** In the language of expr.ts, over the arguments. */
  readonly formula: string;
  /**
   * Dtype of the result: `promote` the arguments (bool counts as i32), `keep` also bool, `float` at least f32,
   * `integer` of i32 or u32 alone, `bool`.
   */
  readonly result: "promote" | "keep" | "float" | "integer" | "bool";
  readonly doc: string;
  /** Range of the random samples of each argument; [-2, 2] where absent. */
  readonly ranges?: readonly (readonly [number, number])[];
  /** Arguments that only select and do not take part in dtype promotion; sampled as bool. */
  readonly masks?: readonly string[];
  /** Arguments that samples give as numbers. */
  readonly numbers: Readonly<Record<string, number>>;
  /** Arguments that calls may leave out. */
  readonly defaults: Readonly<Record<string, number>>;
}

/** The type of the arithmetic: f16 and mixed inputs in f32, integers in their own type. */
export type ComputeType = "f32" | "i32" | "u32";

/** One elementwise call in the form that kernels, references, gradients and fusion share. */
export interface Program {
  /** Over x0, x1, … (the input tensors in order) and s0, s1, … (the scalars). */
  readonly expr: Expr;
  readonly scalars: readonly number[];
  readonly compute: ComputeType;
  /** Of the result. */
  readonly dtype: DType;
}

const order: readonly DType[] = ["bool", "u32", "i32", "f16", "f32"];

/** The dtype that holds all of the given ones: bool < u32 < i32 < f16 < f32. None holds both u32 and i32. */
export function promote(op: string, dtypes: readonly DType[]): DType {
  if (dtypes.includes("u32") && dtypes.includes("i32"))
    throw new KilnError(`${op}: no dtype holds both u32 and i32; cast one of the tensors`);
  return order[Math.max(0, ...dtypes.map((d) => order.indexOf(d)))];
}

/** The names of a row's arguments that are tensors: those that the attributes do not give as numbers. */
export function tensorArguments(row: Row, attrs: Readonly<Record<string, unknown>>): string[] {
  return row.args.filter((arg) => typeof attrs[arg] !== "number");
}

/** Renames tensors to x0, x1, … and scalars to s0, s1, … */
export function renaming(tensors: readonly string[], scalars: readonly string[]): Map<string, Expr> {
  return new Map([
    ...tensors.map((from, i): [string, Expr] => [from, name(`x${i}`)]),
    ...scalars.map((from, i): [string, Expr] => [from, name(`s${i}`)]),
  ]);
}

const bodies = new Map<string, Expr>();

/** The program of a call of a named op. */
export function programOf(
  row: Row,
  dtypes: readonly DType[],
  attrs: Readonly<Record<string, unknown>>,
): Program {
  const tensors = tensorArguments(row, attrs);
  const numbers = row.args.filter((arg) => typeof attrs[arg] === "number");
  const key = `${row.name}(${tensors.join()})`;
  let expr = bodies.get(key);
  if (!expr) {
    expr = substitute(parse(row.formula), renaming(tensors, numbers));
    bodies.set(key, expr);
  }
  const isValue = (arg: string) => !row.masks?.includes(arg);
  const valueDtypes = dtypes.filter((_, i) => isValue(tensors[i]));
  const valueNumbers = numbers.filter(isValue).map((arg) => attrs[arg] as number);
  const { dtype, compute } = resolve(row, expr, valueDtypes, valueNumbers);
  return { expr, scalars: numbers.map((arg) => attrs[arg] as number), dtype, compute };
}

/** Numbers adapt to tensors: they never change a float dtype, and make integers f32 only when not whole. */
function resolve(row: Row, expr: Expr, dtypes: readonly DType[], numbers: readonly number[]) {
  let common = dtypes.length > 0 ? promote(row.name, dtypes) : "f32";
  if (numbers.length > 0 && !isFloat(common)) {
    if (!numbers.every(Number.isInteger)) common = "f32";
    else if (common === "bool") common = "i32";
  }
  const wide = numbers.find((n) => !fitsDType(n, isFloat(common) ? "f32" : common));
  if (wide !== undefined) {
    const mend = isFloat(common) ? "use Infinity if that is meant" : 'cast the tensor to "f32"';
    throw new KilnError(`${row.name}: ${wide} is outside of ${isFloat(common) ? "f32" : common}; ${mend}`);
  }
  if (row.result === "float" && !isFloat(common)) common = "f32";
  if (row.result === "integer" && common !== "i32" && common !== "u32")
    throw new KilnError(
      `${row.name}: expected i32 or u32, got ${common}; cast floats, and use the logical functions for bool`,
    );
  const compute = computeType(common, expr);
  if (row.result === "bool") return { dtype: "bool" as DType, compute };
  const dtype: DType = row.result === "promote" && common === "bool" ? "i32" : common;
  return { dtype, compute };
}

/** The type in which an expression over values of dtype `common` is computed. */
export function computeType(common: DType, expr: Expr): ComputeType {
  if (isFloat(common) || !integral(expr)) return "f32";
  return common === "u32" ? "u32" : "i32";
}

function integral(e: Expr): boolean {
  if (e.kind === "number") return Number.isInteger(e.value);
  if (e.kind === "name") return true;
  return Boolean(functions[e.fn]?.integers) && e.args.every(integral);
}
