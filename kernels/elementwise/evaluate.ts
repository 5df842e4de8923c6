import { integerRange } from "../../core/dtype.ts";
import type { RefTensor } from "../../core/op.ts";
import { broadcastStrides, contiguousStrides } from "../../core/shape.ts";
import type { Expr } from "./expr.ts";
import { functions } from "./functions.ts";
import type { ComputeType, Program } from "./program.ts";

/** Compiles an expression to a closure over the values of its names, in float64 or in integers that wrap around at 2^32. */
export function compileClosure(
  e: Expr,
  slots: readonly string[],
  compute: ComputeType = "f32",
): (values: Float64Array) => number {
  if (e.kind === "number") {
    const { value } = e;
    return () => value;
  }
  if (e.kind === "name") {
    const slot = slots.indexOf(e.name);
    if (slot < 0)
      throw new Error(`the formula reads ${e.name}, which is not among its inputs ${slots.join(", ")}`);
    return (values) => values[slot];
  }
  const inFloat = functions[e.fn]?.f;
  if (!inFloat) throw new Error(`the formula language has no function ${e.fn}`);
  const exact = e.fn === "*" && compute !== "f32" ? Math.imul : inFloat;
  const wrap = wraps[compute];
  const f: typeof exact = wrap ? (x, y, z) => wrap(exact(x, y, z)) : exact;
  const [a, b, c] = e.args.map((arg) => compileClosure(arg, slots, compute));
  if (c) return (v) => f(a!(v), b!(v), c(v));
  if (b) return (v) => f(a!(v), b(v), 0);
  return (v) => f(a!(v), 0, 0);
}

const wraps = { f32: null, i32: (v: number) => v | 0, u32: (v: number) => v >>> 0 };

/** The reference of every elementwise op: the closure at every cell of the broadcast shape. */
export function evaluate(program: Program, inputs: readonly RefTensor[], out: RefTensor): void {
  const slots = [...inputs.map((_, i) => `x${i}`), ...program.scalars.map((_, i) => `s${i}`)];
  const f = compileClosure(program.expr, slots, program.compute);
  const store = storer(program);
  const values = new Float64Array(slots.length);
  values.set(program.scalars, inputs.length);
  const rank = out.shape.length;
  const strides = inputs.map((t) => broadcastStrides(t.shape, contiguousStrides(t.shape), out.shape));
  const cells = inputs.map(() => 0);
  const index = new Array<number>(rank).fill(0);
  for (let i = 0; i < out.data.length; i++) {
    for (let k = 0; k < cells.length; k++) values[k] = inputs[k].data[cells[k]];
    out.data[i] = store(f(values));
    for (let axis = rank - 1; axis >= 0; axis--) {
      const wraps = ++index[axis] === out.shape[axis];
      const steps = wraps ? 1 - index[axis] : 1;
      for (let k = 0; k < cells.length; k++) cells[k] += steps * strides[k][axis];
      if (!wraps) break;
      index[axis] = 0;
    }
  }
}

/** Integers wrap around when stored in another integer dtype; floats are cut to the nearest that exists, NaN to 0. */
function storer({ dtype, compute }: Program): (value: number) => number {
  if (dtype === "bool") return (v) => (v !== 0 ? 1 : 0);
  if (dtype !== "i32" && dtype !== "u32") return (v) => v;
  const { low, high } = integerRange[dtype];
  if (compute !== "f32") return wraps[dtype];
  return (v) => Math.min(high, Math.max(low, Math.trunc(v) || 0));
}
