import { device as currentDevice, type Device, type Storage } from "./device.ts";
import { checkDType, checkValues, type DType, type HostArray, isFloat } from "./dtype.ts";
import { describe, KilnError } from "./errors.ts";
import { formatValues, mostShown } from "./format.ts";
import { type AnyOp, mutatedInputs, type Op } from "./op.ts";
import { copyOp, fillOp } from "./primitives.ts";
import { checkShape, contiguousStrides, isContiguous, numel, type Shape, show } from "./shape.ts";
import { gradEnabled, type Node, record } from "./tape.ts";

/** An n-dimensional array on a device: a strided view of a storage, and its place on the autograd tape. */
export class Tensor {
  readonly storage: Storage;
  readonly shape: Shape;
  /** In elements; may be 0 (expanded) or negative (flipped). */
  readonly strides: readonly number[];
  /** In elements. */
  readonly offset: number;
  /** Whether derivatives with respect to this tensor are wanted, directly or through what it was made of. */
  requiresGrad = false;
  /** Sum of derivatives left by `backward()`; leaves only. */
  grad: Tensor | null = null;
  /** The tensor without history that this is a view of, or null. */
  leaf: Tensor | null = null;
  /** How this tensor was made, while derivatives are recorded; null for leaves. */
  node: Node | null = null;

  constructor(
    storage: Storage,
    shape: Shape,
    strides: readonly number[] = contiguousStrides(shape),
    offset = 0,
  ) {
    this.storage = storage;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
  }

  get dtype(): DType {
    return this.storage.dtype;
  }

  get device(): Device {
    return this.storage.device;
  }

  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return numel(this.shape);
  }

  /** Number of elements: PyTorch's name. */
  numel(): number {
    return this.size;
  }

  /** Number of axes: PyTorch's name. */
  dim(): number {
    return this.rank;
  }

  get contiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** Another view of the same memory, off the tape: the views in `kernels/views` add the derivative. */
  asStrided(shape: Shape, strides: readonly number[], offset: number): Tensor {
    return new Tensor(this.storage, shape, strides, offset);
  }

  /** The same memory without history. */
  detach(): Tensor {
    return this.asStrided(this.shape, this.strides, this.offset);
  }

  /** Marks a leaf whose derivatives are wanted. */
  requireGrad(): this {
    if (!isFloat(this.dtype))
      throw new KilnError(`requireGrad: a ${this.dtype} tensor has no derivatives; use f32 or f16`);
    this.requiresGrad = true;
    return this;
  }

  /** The values in row-major order; waits for the device. */
  async data(): Promise<HostArray> {
    assertAlive("data", this);
    const { version } = this.storage;
    const source = this.contiguous ? this : applyQuietly(copyOp(), [this], {})[0];
    const values = await this.device.read(source.storage, source.offset, source.size);
    if (source !== this) source.storage.free();
    keepValues(this, values, version);
    return values;
  }

  /** The values as nested lists, a number for a scalar; waits for the device. */
  async toArray(): Promise<NestedNumbers> {
    return nested(await this.data(), this.shape);
  }

  /** The values as nested lists: PyTorch's name, but a promise. */
  tolist(): Promise<NestedNumbers> {
    return this.toArray();
  }

  /** The value of a one-element tensor. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new KilnError(`item: expected a tensor of one element, this one is ${show(this.shape)}`);
    return (await this.data())[0];
  }

  /**
   * Overwrites the values from the host (row-major); the tensor must be contiguous.
   *
   * @throws KilnError where a value is no number or has no place in the dtype, as `tensor` does
   */
  write(values: ArrayLike<number>): void {
    assertAlive("write", this);
    checkValues("write", values, this.dtype);
    if (values.length !== this.size || !this.contiguous) {
      throw new KilnError(
        `write: ${values.length} values do not fit a tensor ${show(this.shape)} of ${this.size} contiguous elements`,
      );
    }
    this.device.write(this.storage, values, this.offset);
    this.storage.version++;
  }

  /** The text of `toString` with values, which it reads from the device: `console.log(await x.show())`. */
  async show(): Promise<string> {
    return withValues(this, await this.data());
  }

  /**
   * As PyTorch prints it, where the values are known without waiting: on the reference device, and of small tensors what
   * was last uploaded or read, unless it has been overwritten since. Otherwise dtype, shape and device; see `show`.
   */
  toString(): string {
    const values = knownValues(this);
    return values ? withValues(this, values) : `tensor(${summary(this)}; values: await show())`;
  }

  /** Node's console.log and REPL show the text of `toString`. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  /** `${x}` is the text; any other operator would silently join texts (a + b) or compare with NaN (loss < 0.1). */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new KilnError(
      `JavaScript's operators do not compute with tensors, here ${this.label}: write a.add(b), a.mul(b), a.lt(b), … or compare numbers: await a.item()`,
    );
  }

  /** Dtype, shape and device, for messages. */
  get label(): string {
    return `Tensor(${summary(this)})`;
  }
}

const summary = (t: Tensor) =>
  `${t.dtype}${show(t.shape)} on ${t.device.kind}${t.storage.freed ? ", freed" : ""}`;

const withValues = (t: Tensor, values: ArrayLike<number>) =>
  `tensor(${formatValues(values, t.shape, t.dtype, "tensor(".length)}, ${summary(t)})`;

/** WebGPU reads only by waiting, so the values of small tensors are kept as they pass through the host. */
const kept = new WeakMap<Tensor, { values: ArrayLike<number>; version: number }>();

function keepValues(t: Tensor, values: ArrayLike<number>, version: number): void {
  if (values.length <= mostShown && t.device.kind === "webgpu")
    kept.set(t, { values: Array.from(values), version });
}

function knownValues(t: Tensor): ArrayLike<number> | null {
  if (t.storage.freed || t.storage.stale) return null;
  if (t.device.valuesNow) return t.device.valuesNow(t);
  const known = kept.get(t);
  return known?.version === t.storage.version ? known.values : null;
}

function assertAlive(what: string, t: Tensor): void {
  if (!(t instanceof Tensor)) throw new KilnError(`${what}: expected a tensor, got ${describe(t)}`);
  if (t.storage.freed)
    throw new KilnError(
      `${what}: ${t.label} was freed, by its scope or dispose(); return it from the scope or persist() it, and dispose of it later`,
    );
  if (t.storage.stale) throw new KilnError(t.storage.stale);
}

/** Calls an op: infers, allocates, records the work, and pushes a tape node when derivatives are wanted. */
export function apply<A>(op: Op<A>, inputs: readonly Tensor[], attrs: A): Tensor[] {
  const outputs = applyQuietly(op as unknown as AnyOp, inputs, attrs);
  if (!gradEnabled() || !inputs.some((t) => t.requiresGrad)) return outputs;
  const needs = inputs.map((t) => t.requiresGrad);
  record(op.name, inputs, outputs, (cotangents) => {
    if (!op.gradient) {
      throw new KilnError(
        `${op.name} has no derivative${op.notDifferentiable ? `: ${op.notDifferentiable}` : ""}`,
      );
    }
    return op.gradient({ inputs, outputs, attrs, needs }, cotangents);
  });
  return outputs;
}

function applyQuietly(op: AnyOp, inputs: readonly Tensor[], attrs: unknown): Tensor[] {
  const first = inputs[0];
  const target = first ? first.device : currentDevice();
  for (const t of inputs) {
    assertAlive(op.name, t);
    if (t.device !== target)
      throw new KilnError(
        `${op.name}: ${first.label} and ${t.label} are on different devices; make both on one, or copy: tensor(await x.data(), x.shape, x.dtype)`,
      );
  }
  const outputs = op
    .infer(inputs, attrs as never)
    .map(({ shape, dtype }) => new Tensor(target.allocate(dtype, numel(shape)), shape));
  if (op.mutates) updateInPlace(op, inputs, attrs, outputs);
  else target.run(op, inputs, attrs, outputs);
  return outputs;
}

/** Runs a call that updates inputs in place; an input that is only read but shares their memory is copied first. */
function updateInPlace(
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
): void {
  const mutated = mutatedInputs(op, inputs.length);
  const written = new Set(mutated.map((i) => inputs[i].storage));
  const recorded = gradEnabled() && mutated.find((i) => inputs[i].node);
  if (recorded !== false && recorded !== undefined) {
    throw new KilnError(
      `${op.name}: ${inputs[recorded].label} has a history that an update in place would leave; compute a new tensor, or update it under noGrad()`,
    );
  }
  if (written.size < mutated.length) {
    throw new KilnError(`${op.name}: two of the tensors that it updates in place share memory; copy one`);
  }
  const shared = inputs.filter((t) => written.has(t.storage)).length > mutated.length;
  const apart = (t: Tensor, i: number) =>
    written.has(t.storage) && !mutated.includes(i) ? applyQuietly(copyOp(), [t], {})[0] : t;
  inputs[0].device.run(op, shared ? inputs.map(apart) : inputs, attrs, outputs);
  for (const storage of written) storage.version++;
}

/** Puts a view on the tape; `backward` maps the view's cotangent to the input's. */
export function recordView(
  output: Tensor,
  input: Tensor,
  name: string,
  backward: (dy: Tensor) => Tensor,
): Tensor {
  output.leaf = input.leaf ?? (input.node ? null : input);
  if (gradEnabled() && input.requiresGrad) {
    record(name, [input], [output], ([dy]) => [dy ? backward(dy) : null]);
  }
  return output;
}

/** A number (or true or false), or lists of equal length of them, however nested. */
export type NestedNumbers = number | boolean | ArrayLike<number> | readonly NestedNumbers[];

/**
 * A tensor of host values. Lists inside of lists give its shape, a flat list has one axis unless `shape` is given. The
 * dtype, unless given, is bool for true and false, i32 for an Int32Array, u32 for a Uint32Array and f32 for other numbers:
 * values are rounded to floats, and must be whole and in range for integers. Values other than 0 are true, NaN too.
 *
 * @throws KilnError where lists differ in length, or a value is no number or has no place in the dtype
 */
export function tensor(values: NestedNumbers, shape?: Shape, dtype?: DType, on = currentDevice()): Tensor {
  const { list: given, extents } = flattened(values);
  const truths = Array.isArray(given) && given.some((value) => typeof value === "boolean");
  const list = truths ? given.map((value) => (typeof value === "boolean" ? Number(value) : value)) : given;
  const own = truths && given.every((value) => typeof value === "boolean") ? "bool" : dtypeOf(values);
  const type = dtype ?? own;
  checkDType("tensor", type);
  const dims = shape ?? extents;
  checkShape("tensor", dims);
  if (list.length !== numel(dims)) {
    throw new KilnError(
      `tensor: ${list.length} values do not fill the shape ${show(dims)}, which has ${numel(dims)} elements`,
    );
  }
  checkValues("tensor", list, type);
  const t = new Tensor(on.upload(list, type), dims);
  keepValues(t, list, 0);
  return t;
}

function dtypeOf(values: NestedNumbers): DType {
  if (values instanceof Int32Array) return "i32";
  return values instanceof Uint32Array ? "u32" : "f32";
}

const isList = (value: unknown): value is ArrayLike<unknown> =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));

/** The numbers of nested lists in row-major order, and the extents of the lists. */
function flattened(values: NestedNumbers): { list: ArrayLike<number>; extents: number[] } {
  if (!isList(values)) return { list: [values as number], extents: [] };
  const extents = [values.length];
  let list: ArrayLike<unknown> = values;
  while (isList(list[0])) {
    const { length } = list[0];
    const level: ArrayLike<unknown>[] = Array.from(list, (row) => {
      if (isList(row) && row.length === length) return row;
      const given = isList(row) ? `a list of ${row.length}` : describe(row);
      throw new KilnError(
        `tensor: lists side by side must be equally long, found a list of ${length} and ${given}`,
      );
    });
    extents.push(length);
    list = level.flatMap((row) => Array.from(row));
  }
  return { list: list as ArrayLike<number>, extents };
}

/** Row-major values as lists inside of lists. */
function nested(values: HostArray, [extent, ...inner]: Shape): NestedNumbers {
  if (extent === undefined) return values[0];
  const step = numel(inner);
  return Array.from({ length: extent }, (_, i) => nested(values.subarray(i * step, (i + 1) * step), inner));
}

/** A tensor filled with one value, made on the device; the value must have a place in the dtype. */
export function full(shape: Shape, value: number, dtype: DType = "f32", on = currentDevice()): Tensor {
  return filled("full", shape, value, dtype, on);
}

function filled(name: string, shape: Shape, value: number, dtype: DType, on: Device): Tensor {
  checkShape(name, shape);
  checkDType(name, dtype);
  checkValues(name, [value], dtype);
  const out = new Tensor(on.allocate(dtype, numel(shape)), shape);
  on.run(fillOp(), [], { shape, value, dtype }, [out]);
  return out;
}

export function zeros(shape: Shape, dtype: DType = "f32", on = currentDevice()): Tensor {
  return filled("zeros", shape, 0, dtype, on);
}

export function ones(shape: Shape, dtype: DType = "f32", on = currentDevice()): Tensor {
  return filled("ones", shape, 1, dtype, on);
}
