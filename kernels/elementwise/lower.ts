import type { Call, Pass } from "../../core/op.ts";
import { broadcastStrides, collapseAxes, contiguousStrides, numel } from "../../core/shape.ts";
import { type Expr, isComparison, isOperator, print } from "./expr.ts";
import { functions } from "./functions.ts";
import type { ComputeType, Program } from "./program.ts";

/** How the kernels walk a call: axes merged as far as all tensors allow, four elements per step where possible. */
interface Walk {
  /** Extents of the loop, outermost first; the last one counts steps of `width` elements. */
  shape: number[];
  /** Per input: strides in the units of its binding (vec4 or element), and the first index. */
  strides: number[][];
  starts: number[];
  /** Per input, whether its binding holds single elements. */
  single: boolean[];
  width: 1 | 4;
}

/** Axes up to which elementwise calls are fused; a call of more is computed alone. */
export const maxAxes = 8;

/** Vectors of the uniform that a list of extents or strides takes. */
const quads = (w: Walk) => Math.ceil(w.shape.length / 4);

export function walk({ inputs, outputs }: Pick<Call<unknown>, "inputs" | "outputs">): Walk {
  const { shape: full } = outputs[0];
  const own = contiguousStrides(full);
  const { shape, strides } = collapseAxes(full, [
    own,
    ...inputs.map((t) => broadcastStrides(t.shape, t.strides, full)),
  ]);
  strides.shift();
  const last = shape.length - 1;
  const starts = inputs.map((t) => t.offset);
  // A flat walk may run past the end: allocations are padded, and values from there reach no result.
  const divides = last === 0 || shape[last] % 4 === 0;
  const aligned = strides.every((s, k) => isSplat(s) || (s[last] === 1 && isAligned(s, starts[k])));
  if (!divides || !aligned) return { shape, strides, starts, single: inputs.map(() => true), width: 1 };
  const single = strides.map(isSplat);
  return {
    shape: shape.map((extent, axis) => (axis === last ? Math.ceil(extent / 4) : extent)),
    strides: strides.map((s, k) => (single[k] ? s : s.map((step, axis) => (axis === last ? 1 : step / 4)))),
    starts: starts.map((start, k) => (single[k] ? start : start / 4)),
    single,
    width: 4,
  };
}

const isSplat = (strides: readonly number[]) => strides.at(-1) === 0;
const isAligned = (strides: readonly number[], start: number) =>
  start % 4 === 0 && strides.slice(0, -1).every((step) => step % 4 === 0);

/** Whether all inputs are read in order, or are one repeated element: no index arithmetic is needed. */
export function isFlat(call: Pick<Call<unknown>, "inputs" | "outputs">): boolean {
  const w = walk(call);
  return w.shape.length === 1 && w.width === 4;
}

/** The dispatch of an elementwise call; `file` is one of the two kernels. */
export function plan(call: Call<unknown>, program: Program, flat: boolean): Pass {
  const { profile, inputs, outputs } = call;
  const w = walk(call);
  const workgroup = Math.min(profile.maxWorkgroupSize, profile.class === "gpu" ? 256 : 64);
  const chunks = numel(outputs[0].shape) === 0 ? 0 : numel(w.shape);
  const defines = { WG: workgroup, ...definesOf(program, w, flat, inputs.length) };
  const pad = (list: readonly number[]) => [
    ...list,
    ...new Array<number>(quads(w) * 4 - list.length).fill(0),
  ];
  const params = { chunks, scalars: program.scalars, starts: w.starts };
  // Starting a workgroup costs subgroups of four more than a turn of its loop.
  const most = profile.class === "cpu" && profile.subgroupSize <= 4 ? 512 : 4096;
  const grid: Pass["grid"] = [Math.min(Math.ceil(chunks / workgroup), most, profile.maxGridExtent)];
  if (flat) return { defines, params, grid };
  // Innermost axis first: the kernel peels it off with the first division.
  const strides = w.strides.flatMap((s) => pad([...s].reverse()));
  return {
    defines,
    params: { ...params, shape: pad([...w.shape].reverse()), strides },
    grid,
  };
}

const further = Object.values(functions).flatMap(({ further, wgsl }) => (further && wgsl ? [wgsl] : []));
const cache = new Map<string, Record<string, number | boolean | string>>();

function definesOf(program: Program, w: Walk, flat: boolean, arity: number) {
  const key = `${print(program.expr)}|${program.compute}|${program.dtype}|${w.single.join()}|${w.width}|${flat ? w.starts.map(isZero).join() : w.shape.length}|${arity}`;
  let defines = cache.get(key);
  if (!defines) {
    const code = body(program, loads(w, flat));
    defines = {
      ...typeWords(program.compute, w.width),
      FLOAT: program.compute === "f32",
      FURTHER: program.compute === "f32" && further.some((fn) => code.includes(`${fn}(`)),
      ARITY: arity,
      QUADS: `${quads(w)}`,
      AXES: `${quads(w) * arity}`,
      OUT: w.width === 4 ? "vec4<U0>" : "U0",
      SETUP: setup(program, w, flat),
      BODY: code,
      STORED: stored(program, w.width),
    };
    for (let k = 0; k < arity; k++) {
      defines[`HAS_${k}`] = true;
      defines[`IN${k}`] = w.single[k] ? `T${k}` : `vec4<T${k}>`;
    }
    cache.set(key, defines);
  }
  return defines;
}

function typeWords(compute: ComputeType, width: 1 | 4) {
  const wide = (type: string) => (width === 4 ? `vec4<${type}>` : type);
  return { S: compute, V: wide(compute), VB: wide("bool"), VU: wide("u32") };
}

/** y as it is stored. WGSL leaves open which integer NaN becomes, and keeps to numbers that are floats at the upper end. */
function stored({ compute, dtype }: Program, width: 1 | 4): string {
  if (compute !== "f32" || (dtype !== "i32" && dtype !== "u32")) return "OUT(y)";
  const integer = width === 4 ? `vec4<${dtype}>` : dtype;
  const [above, most] = dtype === "i32" ? ["2147483648.0", "2147483647"] : ["4294967296.0", "4294967295"];
  return `select(select(${integer}(y), ${integer}(${most}), y >= V(${above})), ${integer}(0), is_nan(y))`;
}

const isZero = (start: number) => start === 0;
const component = (array: string, k: number) => `params.${array}[${k >> 2}][${k & 3}]`;

/**
 * Statements before the loop: software adapters read a uniform again on every turn unless told otherwise. Inputs of
 * one repeated element are read here too where the walk is flat. The loop's bound repeats the lengths of the arrays: Tint then sees that i is inside and leaves its own check of each access out (a quarter of the time on
 * SwiftShader).
 */
function setup(program: Program, w: Walk, flat: boolean): string {
  const lines = program.scalars.map((_, k) => `let s${k} = V(${component("scalars", k)});`);
  let bound = "min(params.chunks, arrayLength(&out))";
  w.starts.forEach((start, k) => {
    const inOrder = flat && !w.single[k];
    if (inOrder && start === 0) bound = `min(${bound}, arrayLength(&in${k}))`;
    else lines.push(`let start${k} = ${component("starts", k)};`);
    if (flat && !inOrder) lines.push(`let x${k} = V(S(in${k}[start${k}]));`);
  });
  lines.push(`let chunks = ${bound};`);
  if (flat) return lines.join("\n  ");
  for (let axis = 0; axis < w.shape.length; axis++) {
    if (axis > 0) lines.push(`let extent${axis - 1} = ${component("shape", axis - 1)};`);
    w.strides.forEach((_, k) => {
      lines.push(`let stride${k}_${axis} = ${component("strides", k * quads(w) * 4 + axis)};`);
    });
  }
  return lines.join("\n  ");
}

/** Statements that find each input's place for output i: coordinates innermost first, one division an axis. */
function places(w: Walk): string[] {
  const lines = ["let rest0 = i;"];
  const last = w.shape.length - 1;
  for (let axis = 0; axis < last; axis++) {
    lines.push(`let rest${axis + 1} = rest${axis} / extent${axis};`);
    lines.push(`let c${axis} = i32(rest${axis} - rest${axis + 1} * extent${axis});`);
  }
  lines.push(`let c${last} = i32(rest${last});`);
  w.strides.forEach((_, k) => {
    const terms = w.shape.map((_, axis) => `c${axis} * stride${k}_${axis}`);
    lines.push(`let at${k} = start${k} + ${terms.join(" + ")};`);
  });
  return lines;
}

function loads(w: Walk, flat: boolean): string[] {
  const lines = flat ? [] : places(w);
  w.single.forEach((single, k) => {
    const inOrder = w.starts[k] === 0 ? "i" : `start${k} + i`;
    const at = flat ? inOrder : `at${k}`;
    if (!single) lines.push(`let x${k} = V(in${k}[${at}]);`);
    else if (!flat) lines.push(`let x${k} = V(S(in${k}[${at}]));`);
  });
  return lines;
}

/** Levels of an expression that a statement may hold: parsers of WGSL stop at 128 parentheses, a level is up to three. */
const deepest = 24;

/** WGSL statements that compute `y`: loads, then subexpressions that occur more than once or are deeply nested, then the result. */
function body(program: Program, loaded: readonly string[]): string {
  const counts = new Map<string, number>();
  const levels = new Map<Expr, number>();
  count(program.expr, counts);
  const lines = [...loaded];
  const shared = new Map<string, string>();
  const text = (e: Expr): string => {
    const known = shared.get(print(e));
    if (known) return known;
    const code = show(e, program.compute, text);
    if (e.kind !== "call") return code;
    const level = 1 + Math.max(...e.args.map((arg) => (shared.has(print(arg)) ? 0 : (levels.get(arg) ?? 0))));
    levels.set(e, level);
    if (level < deepest && (isBoolean(e) || counts.get(print(e)) === 1)) return code;
    const temp = `t${shared.size}`;
    shared.set(print(e), temp);
    lines.push(`let ${temp} = ${code};`);
    return temp;
  };
  lines.push(`let y = ${text(program.expr)};`);
  return lines.join("\n    ");
}

function count(e: Expr, counts: Map<string, number>): void {
  if (e.kind !== "call") return;
  const key = print(e);
  const n = counts.get(key) ?? 0;
  counts.set(key, n + 1);
  if (n === 0) for (const arg of e.args) count(arg, counts);
}

const isBoolean = (e: Expr) => isComparison(e) || (e.kind === "call" && functions[e.fn]?.boolean === true);

function show(e: Expr, compute: ComputeType, text: (e: Expr) => string): string {
  if (e.kind === "number") return literal(e.value, compute);
  if (e.kind === "name") return e.name;
  if (isBoolean(e)) return `V(${condition(e, compute, text)})`;
  if (e.fn === "neg") return compute === "u32" ? `(V(0) - ${text(e.args[0])})` : `(-${text(e.args[0])})`;
  if (e.fn === "where") {
    const [mask, yes, no] = e.args;
    return `select(${text(no!)}, ${text(yes!)}, ${condition(mask!, compute, text)})`;
  }
  if (isOperator(e.fn)) return `(${text(e.args[0])} ${e.fn} ${text(e.args[1])})`;
  // Integers are whole already, and what has no sign is 0 or more.
  if (compute !== "f32" && ["floor", "ceil", "trunc", "round"].includes(e.fn)) return text(e.args[0]);
  if (compute === "u32" && e.fn === "sign") return `min(${text(e.args[0])}, V(1))`;
  return `${wgslName(e.fn, compute)}(${e.args.map(text).join(", ")})`;
}

/** An expression as WGSL bool: comparisons as they are, numbers by being non-zero. */
function condition(e: Expr, compute: ComputeType, text: (e: Expr) => string): string {
  if (e.kind !== "call" || !isBoolean(e)) return `(${text(e)} != V(0))`;
  if (isComparison(e)) return comparison(e.fn, text(e.args[0]), text(e.args[1]), compute);
  return `${wgslName(e.fn, compute)}(${text(e.args[0])})`;
}

/** With NaN on either side as IEEE 754 has it; integers have none. */
function comparison(sign: string, a: string, b: string, compute: ComputeType): string {
  if (compute !== "f32") return `(${a} ${sign} ${b})`;
  if (sign === "==") return `equal(${a}, ${b})`;
  if (sign === "!=") return `differ(${a}, ${b})`;
  const fn = sign.length === 2 ? "less_equal" : "less";
  return sign.startsWith("<") ? `${fn}(${a}, ${b})` : `${fn}(${b}, ${a})`;
}

function wgslName(fn: string, compute: ComputeType): string {
  const name = functions[fn]?.wgsl;
  if (!name) throw new Error(`the formula language has no function ${fn}`);
  if (compute === "f32") return name;
  // Integers have no NaN to keep: the builtins serve.
  return { maximum: "max", minimum: "min", signum: "sign" }[name] ?? name;
}

function literal(value: number, compute: ComputeType): string {
  if (!Number.isFinite(value)) throw new Error(`formulas hold finite numbers; pass ${value} as a scalar`);
  if (compute !== "f32") return `V(${value})`;
  const digits = `${Math.fround(value)}`;
  return `V(${/[.e]/.test(digits) ? digits : `${digits}.0`})`;
}

/** Largest number of tensors that one call may read: WebGPU grants eight storage buffers everywhere. */
export const maxInputs = 7;
