import { checkDType, type DType, isFloat } from "../../core/dtype.ts";
import { describe, KilnError } from "../../core/errors.ts";
import {
  type Call,
  defineOp,
  type GradientContext,
  type Op,
  type OutputMeta,
  opError,
  type Sample,
  type SampleInput,
  type Variant,
} from "../../core/op.ts";
import { broadcastShapes, rankOf, type Shape, sameShape } from "../../core/shape.ts";
import { apply, Tensor } from "../../core/tensor.ts";
import { sumTo } from "../reduce/sum.ts";
import { derivative, scale } from "./derive.ts";
import { evaluate } from "./evaluate.ts";
import { type Expr, isNumber, name, names, parse, print, substitute } from "./expr.ts";
import { isFlat, maxInputs, plan } from "./lower.ts";
import {
  type ComputeType,
  computeType,
  type Program,
  programOf,
  promote,
  type Row,
  renaming,
  tensorArguments,
} from "./program.ts";

/** Attributes of a named elementwise op: the arguments that are numbers, by name. */
export type NumberArguments = Readonly<Record<string, number>>;

/** Attributes of a formula of one's own: text over x0, x1, … (inputs) and s0, s1, … (scalars). */
export interface FusedAttrs {
  readonly expr: string;
  readonly scalars: readonly number[];
  readonly dtype: DType;
  readonly compute: ComputeType;
}

function variantsOf<A>(program: (call: Call<A>) => Program): Variant<A>[] {
  const variant = (flat: boolean): Variant<A> => ({
    name: flat ? "flat" : "strided",
    file: `elementwise/${flat ? "flat" : "strided"}.wgsl`,
    strided: true,
    ...(flat && { when: isFlat }),
    plan: (call) => plan(call, program(call), flat),
  });
  return [variant(true), variant(false)];
}

/**
 * `copy` is what makes inputs contiguous for variants that need it, so it must itself have one variant that takes
 * every layout.
 */
function copyVariants<A>(program: (call: Call<A>) => Program): Variant<A>[] {
  const [flat, strided] = variantsOf(program) as [Variant<A>, Variant<A>];
  const planBy = (call: Call<A>) => {
    const { file, plan: planned } = isFlat(call) ? flat : strided;
    return { file, ...planned(call) };
  };
  return [{ ...strided, name: "any", plan: planBy }];
}

function inferShape(op: string, inputs: readonly OutputMeta[]): Shape {
  if (inputs.length > maxInputs || inputs.length === 0) {
    throw opError(op, inputs, `expected 1 to ${maxInputs} tensors`);
  }
  return broadcastShapes(
    op,
    inputs.map((t) => t.shape),
  );
}

const parsed = new Map<string, Expr>();

function programOfFused({ expr: text, scalars, dtype, compute }: FusedAttrs): Program {
  let expr = parsed.get(text);
  if (!expr) {
    expr = parse(text);
    parsed.set(text, expr);
  }
  return { expr, scalars, dtype, compute };
}

export const fused: Op<FusedAttrs> = defineOp<FusedAttrs>({
  name: "fused",
  doc: "One pass for any elementwise formula (attribute expr over x0, x1, … and scalars s0, s1, …), with broadcasting.",
  infer: (inputs, { dtype }) => [{ shape: inferShape("fused", inputs), dtype }],
  reference: (inputs, attrs, [out]) => evaluate(programOfFused(attrs), inputs, out!),
  gradient: (context, [dy]) => gradientOf(programOfFused(context.attrs), context, dy!),
  variants: variantsOf(({ attrs }) => programOfFused(attrs)),
  secondOrder: true,
  samples: () => [
    fusedSample("chain", [[3, 5, 7], [7], [5, 1]], "(tanh((x0 * x1)) + (s0 * sigmoid(x2)))", [0.75]),
    fusedSample(
      "seven",
      [[4, 8], [8], [4, 1], [1], [4, 8], [8], [4, 8]],
      "(((x0 * x1) + (x2 * x3)) - ((x4 * x5) * x6))",
    ),
  ],
});

function fusedSample(
  label: string,
  shapes: Shape[],
  expr: string,
  scalars: number[] = [],
): Sample<FusedAttrs> {
  return {
    name: label,
    inputs: shapes.map((shape) => ({ shape })),
    attrs: { expr, scalars, dtype: "f32", compute: "f32" },
  };
}

/** Cotangent of each input: one fused pass `dy * derivative`, then the sum over axes that were broadcast. */
function gradientOf(
  program: Program,
  { inputs, needs }: GradientContext<unknown>,
  dy: Tensor,
): (Tensor | null)[] {
  return inputs.map((x, i) => {
    if (!needs[i] || !isFloat(x.dtype)) return null;
    const slope = derivative(program.expr, `x${i}`);
    if (isNumber(slope, 0)) return null;
    const sums = !sameShape(x.shape, dy.shape);
    // A sum is taken before rounding to a narrower dtype.
    const dx = multiply(dy, slope, inputs, program.scalars, sums ? dy.dtype : x.dtype);
    return sums ? castTo(sumTo(dx, x.shape), x.dtype) : dx;
  });
}

function multiply(
  dy: Tensor,
  slope: Expr,
  inputs: readonly Tensor[],
  scalars: readonly number[],
  dtype: DType,
): Tensor {
  if (isNumber(slope, 1)) return castTo(dy, dtype);
  const expr = scale(slope, name(`x${inputs.length}`));
  if (names(expr).size - scalars.length > maxInputs) {
    const alone = formula(slope, inputs, scalars, "f32");
    return formula(parse("x0 * x1"), [dy, alone], [], dtype);
  }
  return formula(expr, [...inputs, dy], scalars, dtype);
}

/** A fused call of `expr` on those of the tensors and scalars that it reads. */
function formula(expr: Expr, tensors: readonly Tensor[], scalars: readonly number[], dtype?: DType): Tensor {
  const read = names(expr);
  const used = tensors.map((_, i) => `x${i}`).filter((n) => read.has(n));
  const usedScalars = scalars.map((_, i) => `s${i}`).filter((n) => read.has(n));
  const compact = substitute(expr, renaming(used, usedScalars));
  const given = used.map((n) => tensors[Number(n.slice(1))]);
  const common = promote(
    "fused",
    given.map((t) => t.dtype),
  );
  const attrs: FusedAttrs = {
    expr: print(compact),
    scalars: usedScalars.map((n) => scalars[Number(n.slice(1))]),
    dtype: dtype ?? common,
    compute: computeType(common, compact),
  };
  return apply(fused, given, attrs)[0];
}

/** The program of any elementwise op's call, for fusing chains; null for other ops. */
export function elementwiseProgram(op: string, dtypes: readonly DType[], attrs: unknown): Program | null {
  if (op === "fused") return programOfFused(attrs as FusedAttrs);
  if (op === "cast") return castProgram(dtypes[0], (attrs as { dtype: DType }).dtype);
  const row = rows.get(op);
  return row ? programOf(row, dtypes, attrs as NumberArguments) : null;
}

const rows = new Map<string, Row>();

/** Every elementwise op by name. */
export function elementwiseRows(): ReadonlyMap<string, Row> {
  return rows;
}

/** Registers the op of a row; gives the function that calls it on tensors and numbers in the order of its arguments. */
export function defineElementwise(row: Row): (...args: readonly (Tensor | number)[]) => Tensor {
  rows.set(row.name, row);
  const discrete = row.result === "bool" || row.result === "integer";
  const program = (inputs: readonly { dtype: DType }[], attrs: NumberArguments) =>
    programOf(
      row,
      inputs.map((t) => t.dtype),
      attrs ?? {},
    );
  const op = defineOp<NumberArguments>({
    name: row.name,
    doc: `${row.doc} Shapes broadcast. Computes \`${row.formula}\`.`,
    infer(inputs, attrs) {
      checkArguments(row, inputs, attrs);
      return [{ shape: inferShape(row.name, inputs), dtype: program(inputs, attrs).dtype }];
    },
    reference: (inputs, attrs, [out]) => evaluate(program(inputs, attrs), inputs, out!),
    ...(discrete
      ? { notDifferentiable: "its result is not continuous" }
      : { gradient: (context, [dy]) => gradientOf(program(context.inputs, context.attrs), context, dy!) }),
    variants: (row.name === "copy" ? copyVariants : variantsOf)<NumberArguments>(({ inputs, attrs }) =>
      program(inputs, attrs),
    ),
    secondOrder: !discrete,
    samples: () => samplesOf(row),
  });
  return (...args) => {
    const numbers: Record<string, number> = {};
    const tensors: Tensor[] = [];
    row.args.forEach((name, i) => {
      const arg = args[i] === undefined ? row.defaults[name] : args[i];
      if (typeof arg === "number") numbers[name] = arg;
      else if (arg instanceof Tensor) tensors.push(arg);
      else throw new KilnError(`${row.name}: ${name} must be a tensor or a number, not ${describe(arg)}`);
    });
    return apply(op, tensors, numbers)[0];
  };
}

function checkArguments(row: Row, inputs: readonly OutputMeta[], attrs: NumberArguments): void {
  const expected = tensorArguments(row, attrs);
  if (inputs.length !== expected.length)
    throw opError(row.name, inputs, `expected tensors ${expected.join(", ")}`);
  for (const mask of row.masks ?? []) {
    const at = expected.indexOf(mask);
    if (at >= 0 && inputs[at].dtype !== "bool") throw opError(row.name, inputs, `${mask} must be bool`);
  }
}

/** The formula in i32 where both dtypes are integers, in f32 otherwise. */
function castProgram(from: DType, to: DType): Program {
  const expr = to === "bool" ? parse("x0 != 0") : name("x0");
  return { expr, scalars: [], dtype: to, compute: computeType(from, expr) };
}

const castOp: Op<{ dtype: DType }> = defineOp<{ dtype: DType }>({
  name: "cast",
  doc: "The values in another dtype: floats are cut towards zero to become integers, anything non-zero becomes true.",
  infer(inputs, { dtype }) {
    checkDType("cast", dtype);
    return [{ shape: inferShape("cast", inputs), dtype }];
  },
  reference: (inputs, { dtype }, [out]) => evaluate(castProgram(inputs[0].dtype, dtype), inputs, out!),
  gradient: ({ inputs, needs }, [dy]) => [needs[0] ? castTo(dy!, inputs[0].dtype) : null],
  variants: variantsOf(({ inputs, attrs }) => castProgram(inputs[0].dtype, attrs.dtype)),
  secondOrder: true,
  samples: () => [
    { name: "f32 to i32", inputs: [{ shape: [3, 7], range: [-9, 9] }], attrs: { dtype: "i32" } },
    { name: "i32 to f32", inputs: [{ shape: [5], dtype: "i32", range: [-9, 9] }], attrs: { dtype: "f32" } },
    { name: "f32 to bool", inputs: [{ shape: [4], values: [0, 1, -2, 0.5] }], attrs: { dtype: "bool" } },
    { name: "bool to f32", inputs: [{ shape: [2, 6], dtype: "bool" }], attrs: { dtype: "f32" } },
    { name: "i32 to u32", inputs: [{ shape: [9], dtype: "i32", range: [0, 9] }], attrs: { dtype: "u32" } },
  ],
});

/** The tensor itself where it already has the dtype. */
export function castTo(x: Tensor, dtype: DType): Tensor {
  rankOf("cast", x);
  return x.dtype === dtype ? x : apply(castOp, [x], { dtype })[0];
}

function samplesOf(row: Row): Sample<NumberArguments>[] {
  const attrs = row.numbers;
  const tensors = tensorArguments(row, attrs);
  const input = (shape: Shape, i: number, layout?: SampleInput["layout"]): SampleInput => {
    const at = row.args.indexOf(tensors[i]);
    if (row.masks?.includes(tensors[i])) return { shape, dtype: "bool", layout };
    if (row.result === "integer")
      return { shape, dtype: "i32", range: row.ranges?.[at] ?? [-50, 50], layout };
    return { shape, range: row.ranges?.[at] ?? row.ranges?.[0] ?? [-2, 2], layout };
  };
  const make = (label: string, shapes: Shape[], layout?: SampleInput["layout"]): Sample<NumberArguments> => ({
    name: label,
    inputs: tensors.map((_, i) => input(shapes[i % shapes.length], i, layout)),
    attrs,
    rtol: 1e-4,
  });
  // All rows share two kernels: the layouts are tried on a few of them, the formulas on all.
  const thorough = ["copy", "add", "mul", "tanh", "where", "lt", "swiglu"].includes(row.name);
  const samples = [make("odd", [[3, 5, 7]])];
  if (tensors.length > 1)
    samples.push(
      make("outer", [
        [3, 1, 5],
        [4, 1],
      ]),
    );
  if (thorough) samples.push(make("transposed", [[6, 8]], "transposed"), make("row", [[5, 8], [8]]));
  const whole = thorough || ["fmod", "remainder", "floor_divide"].includes(row.name);
  if (whole && row.result !== "float") samples.push(integers(make("i32", [[3, 5]])));
  if (row.name === "add" || row.name === "copy")
    samples.push(make("empty", [[0, 3]]), make("long", [[70001]]), make("scalar", [[]]));
  return samples;
}

function integers(sample: Sample<NumberArguments>): Sample<NumberArguments> {
  const inputs = sample.inputs.map(
    (t): SampleInput => (t.dtype === "bool" ? t : { ...t, dtype: "i32", range: [-50, 50] }),
  );
  return { ...sample, inputs };
}
