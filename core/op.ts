import type { DType } from "./dtype.ts";
import { KilnError, nearestName } from "./errors.ts";
import { type Shape, show } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/** What an op knows of a tensor before it runs: never its values. */
export interface TensorMeta {
  readonly shape: Shape;
  readonly dtype: DType;
  /** In elements; contiguous unless the variant is `strided`. */
  readonly strides: readonly number[];
  /** In elements from the start of the buffer; 0 unless the variant is `strided`. */
  readonly offset: number;
}

/** What an output will be; strides are row-major. */
export interface OutputMeta {
  shape: Shape;
  dtype: DType;
}

/** A value on the reference device: contiguous, float64 whatever its dtype. */
export interface RefTensor {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly data: Float64Array;
}

/** Extents of one product of the matrix units: m by n results, summed over k. */
export interface MatrixShape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** How the matrix units may be used: the forms that compile and give right results on this adapter. */
export interface MatrixUnits {
  /** How their builtins are written; `emulated` spells them out in plain WGSL, for tests on adapters without any. */
  readonly dialect: "template" | "boolean" | "emulated";
  /** For f16 operands and f32 results; the largest first. */
  readonly shapes: readonly MatrixShape[];
  /** Units of offsets and strides when loading from arrays of vec4, in components; null where such loads fail. */
  readonly vectors: { readonly offset: 1 | 4; readonly stride: 1 | 4 } | null;
  /** Kernels that did not compile or came out wrong, and are not used: `matmul 64x64x32`, `attention 128`. */
  readonly refused: string[];
}

/** The properties that kernels are chosen by: read from the adapter, never guessed. */
export interface DeviceProfile {
  /** `cpu` for software adapters (no barriers, the subgroup is the worker), `gpu` otherwise. */
  readonly class: "cpu" | "gpu";
  readonly name: string;
  readonly f16: boolean;
  /** The one subgroup size that the adapter always uses, or 0 when it varies or subgroups are absent. */
  readonly subgroupSize: number;
  readonly maxWorkgroupSize: number;
  readonly maxWorkgroupMemory: number;
  readonly maxBindingBytes: number;
  readonly maxStorageBuffers: number;
  readonly maxGridExtent: number;
  /** Null without the feature, and until its kernels have been tried. */
  matrix: MatrixUnits | null;
}

/** One call of an op as a variant sees it. */
export interface Call<A> {
  readonly profile: DeviceProfile;
  readonly inputs: readonly TensorMeta[];
  readonly outputs: readonly TensorMeta[];
  readonly attrs: A;
}

/** A value of the WGSL `Params` struct: a number, or numbers for vec4 and array members. */
export type ParamValue = number | readonly number[];

/** One dispatch. */
export interface Pass {
  /** Path under `kernels/`; the variant's own file when absent. */
  file?: string;
  /** Numbers become WGSL `const`s, booleans steer `#if`, strings are substituted for the word. */
  defines?: Record<string, number | boolean | string>;
  /** Members of the WGSL `struct Params`, by name. */
  params?: Record<string, ParamValue>;
  /** Workgroups along x, y, z; a zero anywhere skips the dispatch. */
  grid: readonly [number, number?, number?];
  /** Which tensors are bound, in the order of the file's bindings; all inputs, outputs and temps when absent. */
  bind?: readonly (`in${number}` | `out${number}` | `tmp${number}`)[];
}

/** How a call is executed by a variant: one pass, or several over temporary buffers. */
export interface Lowering {
  passes: readonly Pass[];
  temps?: readonly { dtype: DType; length: number }[];
}

/** One way of executing an op on WebGPU. Variants differ in speed only. */
export interface Variant<A> {
  name: string;
  /** Path under `kernels/`, e.g. `norm/forward.wgsl`. */
  file: string;
  /** Whether this variant can take the call; absent means always. */
  when?: (call: Call<A>) => boolean;
  /**
   * Takes views as they are (strides, offset), always or where the call allows it; otherwise they are copied to contiguous
   * buffers first. A function must hold for contiguous inputs of every call that `when` takes.
   */
  strided?: boolean | ((call: Call<A>) => boolean);
  /** `option` is one of those that `tune` names; absent, the variant chooses by rule. */
  plan: (call: Call<A>, option?: string) => Pass | Lowering;
  /**
   * Ways to plan the call that differ in speed and in no bit of the result, the rule's own choice first, and the class of
   * calls for which a measured choice between them holds. Null where there is nothing to choose.
   */
  tune?: (call: Call<A>) => { shapeClass: string; options: readonly string[] } | null;
}

/** An input set that every test runs. */
export interface Sample<A> {
  name: string;
  inputs: SampleInput[];
  attrs: A;
  /** Largest allowed |difference| on top of rtol * |expected| (default 1e-5). */
  atol?: number;
  rtol?: number;
  /** False for samples on which derivatives are not defined or not worth checking. */
  gradcheck?: boolean;
}

/** A recipe for a tensor: either explicit values or seeded random ones. */
export interface SampleInput {
  shape: Shape;
  /** Absent means the float type that the test is about (f32, then f16); given, also "f32", it stays. */
  dtype?: DType;
  values?: readonly number[];
  /** Uniform range of random values; default [-2, 2] for floats, [0, 1] for ints (inclusive). */
  range?: readonly [number, number];
  /** How the tensor is laid out: `transposed` swaps the last two axes in memory, `strided` leaves gaps. */
  layout?: "contiguous" | "transposed" | "strided";
  /** Why this input has no meaning for NaN and infinities; without a reason the suites feed them to every float input. */
  finite?: string;
}

/** What a gradient rule receives. */
export interface GradientContext<A> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly attrs: A;
  /** Which inputs need a gradient; rules may return null for the others. */
  readonly needs: readonly boolean[];
}

/** The contract of an op: its folder's `op.ts` says everything there is to know about it. */
export interface OpSpec<A> {
  name: string;
  /** One or more sentences: what it computes, shapes, source. */
  doc: string;
  /** The only shape and dtype rule; throws through `opError`. */
  infer: (inputs: readonly TensorMeta[], attrs: A) => OutputMeta[];
  /** The only meaning: plain float64 loops. Outputs arrive zeroed; mutated inputs are written in place. */
  reference: (inputs: readonly RefTensor[], attrs: A, outputs: readonly RefTensor[]) => void;
  /** Cotangents of the inputs from those of the outputs (null where an output was not used), built from other ops. */
  gradient?: (context: GradientContext<A>, cotangents: readonly (Tensor | null)[]) => (Tensor | null)[];
  /** Why there is no gradient, for ops that could be asked for one. */
  notDifferentiable?: string;
  /** Indices of inputs that the op updates in place (optimizers, caches); a function of how many inputs there are. */
  mutates?: readonly number[] | ((inputs: number) => readonly number[]);
  variants: readonly Variant<A>[];
  samples: () => Sample<A>[];
  /** Whether second derivatives exist (tests check them where true). */
  secondOrder?: boolean;
  /** False for ops that refuse f16 (optimizers, samplers): the tests then leave f16 out. */
  f16?: boolean;
}

export type Op<A> = Readonly<OpSpec<A>>;

/** What is said of an op when it is defined; of one with a single kernel, `plain`, its file and plan in place of variants. */
type OpDefinition<A> = Omit<OpSpec<A>, "variants"> &
  (Pick<OpSpec<A>, "variants"> | Pick<Variant<A>, "file" | "strided" | "plan">);

/** An op whose attributes are not known statically: what the registry and the devices handle. */
export type AnyOp = Op<never>;

const registry = new Map<string, AnyOp>();

/** Registers an op; each folder under `kernels/` calls this once per op. */
export function defineOp<A>(definition: OpDefinition<A>): Op<A> {
  const { name } = definition;
  if (registry.has(name)) throw new Error(`op ${name} is defined twice`);
  const op = "variants" in definition ? definition : { ...definition, variants: [onlyKernel(definition)] };
  registry.set(name, op as unknown as AnyOp);
  return op;
}

const onlyKernel = <A>({ file, strided = false, plan }: Pick<Variant<A>, "file" | "strided" | "plan">) => ({
  name: "plain",
  file,
  strided,
  plan,
});

/** All registered ops, by name: the generic suites iterate this. */
export function registeredOps(): ReadonlyMap<string, AnyOp> {
  return registry;
}

/** Indices of the inputs that a call with so many of them updates in place. */
export function mutatedInputs({ mutates = [] }: AnyOp, inputs: number): readonly number[] {
  return typeof mutates === "function" ? mutates(inputs) : mutates;
}

/** A registered op by name. */
export function findOp(name: string): AnyOp {
  const op = registry.get(name);
  if (op) return op;
  const near = nearestName(name, [...registry.keys()]);
  throw new KilnError(`no op is called ${name}${near ? `; did you mean ${near}?` : ""}`);
}

/** The error for arguments that an op cannot take: names the op, their dtypes and shapes, and what it expects. */
export function opError(
  op: string,
  inputs: readonly Pick<TensorMeta, "shape" | "dtype">[],
  expected: string,
): KilnError {
  const given = inputs.map((t) => `${t.dtype}${show(t.shape)}`).join(", ");
  return new KilnError(`${op}(${given}): ${expected}`, { code: "shape_mismatch" });
}
