import type { Storage } from "../../core/device.ts";
import { byteSize } from "../../core/dtype.ts";
import { type AnyOp, mutatedInputs } from "../../core/op.ts";
import { broadcastStrides, collapseAxes, contiguousStrides, sameShape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import type { TracedCall } from "../../core/webgpu/call.ts";
import { cost, type Expr, isComparison, isNumber, name, names, number, print, substitute } from "./expr.ts";
import { type FusedAttrs, fuseInto } from "./fuse.ts";
import { maxAxes, walk } from "./lower.ts";
import { elementwiseProgram, fused } from "./op.ts";
import type { Program } from "./program.ts";

// What compile does to elementwise calls: a result that only elementwise calls read is computed where it is read, and
// a copy of a contiguous tensor is not made. Values are rounded as if they had been stored.

/** A call of the trace; `program` is null where it is not elementwise. */
interface Entry {
  readonly at: number;
  call: TracedCall;
  program: Program | null;
}

/** The part of an entry that merging changes: its formula and inputs. */
interface Body {
  program: Program;
  inputs: readonly Tensor[];
}

/** Plain operations that cost about as much as a dispatch; up to this many may always be computed again. */
const dispatchWork = 16_384;
/** Plain operations an element that cost less than one more pass over memory. */
const passWork = 4;
/** Characters of a formula: shared parts are written out each time, which would double with every level. */
const longest = 1500;
/** Work an element of one kernel (see `cost`): software adapters take seconds to compile some dozens of functions. */
const heaviest = 128;

/**
 * Merges elementwise calls into those that read their results and drops needless copies; the calls keep their order.
 *
 * @param live storages that must exist after the step
 */
export function fuseElementwise(calls: TracedCall[], live: ReadonlySet<Storage>): TracedCall[] {
  const trace = new Trace(calls, live);
  // A merge may leave a single reader where there were two, so that another merge pays.
  while (trace.sweep());
  return trace.calls();
}

class Trace {
  readonly #live: ReadonlySet<Storage>;
  readonly #entries = new Set<Entry>();
  readonly #readers = new Map<Storage, Set<Entry>>();
  /** When each storage is updated in place. */
  readonly #updates = new Map<Storage, number[]>();

  constructor(calls: readonly TracedCall[], live: ReadonlySet<Storage>) {
    this.#live = live;
    calls.forEach((call, at) => {
      const entry = { at, call, program: programOf(call) };
      this.#entries.add(entry);
      this.#reads(entry, true);
      for (const i of mutatedInputs(call.op, call.inputs.length)) {
        const { storage } = call.inputs[i];
        const before = this.#updates.get(storage);
        if (before) before.push(at);
        else this.#updates.set(storage, [at]);
      }
    });
  }

  calls(): TracedCall[] {
    return [...this.#entries].map((entry) => entry.call);
  }

  /** Tries every call once; whether one was merged away. */
  sweep(): boolean {
    const before = this.#entries.size;
    for (const entry of [...this.#entries]) {
      if (!entry.program) continue;
      const made = entry.call.outputs[0];
      const readers = [...(this.#readers.get(made.storage) ?? [])];
      const stays = this.#live.has(made.storage) || this.#updates.has(made.storage) || made.size === 0;
      if (stays || readers.length === 0 || !readers.every((reader) => this.#canWait(entry, reader))) continue;
      const inputs = aliased(entry, readers) ?? null;
      const bodies = inputs ? null : merged(entry, readers);
      if (!inputs && !bodies) continue;
      readers.forEach((reader, i) => {
        if (inputs) this.#replace(reader, { ...reader.call, inputs: inputs[i] }, reader.program);
        else this.#replace(reader, fusedCall(bodies![i], reader.call), bodies![i].program);
      });
      this.#reads(entry, false);
      this.#entries.delete(entry);
    }
    return this.#entries.size < before;
  }

  /** Whether what `entry` reads is still the same when `reader` runs. */
  #canWait(entry: Entry, reader: Entry): boolean {
    return entry.call.inputs.every((t) =>
      (this.#updates.get(t.storage) ?? []).every((at) => at < entry.at || at > reader.at),
    );
  }

  #replace(entry: Entry, call: TracedCall, program: Program | null): void {
    this.#reads(entry, false);
    entry.call = call;
    entry.program = program;
    this.#reads(entry, true);
  }

  #reads(entry: Entry, does: boolean): void {
    for (const { storage } of entry.call.inputs) {
      const readers = this.#readers.get(storage) ?? new Set();
      this.#readers.set(storage, readers);
      if (does) readers.add(entry);
      else readers.delete(entry);
    }
  }
}

function programOf({ op, inputs, attrs }: TracedCall): Program | null {
  if (op.name === "fill") {
    const { value, dtype } = attrs as { value: number; dtype: Program["dtype"] };
    if (dtype !== "f32" && dtype !== "i32") return null;
    return { expr: name("s0"), scalars: [value], compute: dtype, dtype };
  }
  return elementwiseProgram(
    op.name,
    inputs.map((t) => t.dtype),
    attrs ?? {},
  );
}

function fusedCall({ program, inputs }: Body, { outputs }: TracedCall): TracedCall {
  const attrs: FusedAttrs = { ...program, expr: print(program.expr) };
  return { op: fused as unknown as AnyOp, inputs, attrs, outputs };
}

/** The readers' inputs with the copied tensor in place of its copy, or null where `entry` is no plain copy. */
function aliased({ call, program }: Entry, readers: readonly Entry[]): Tensor[][] | null {
  const [source] = call.inputs;
  const made = call.outputs[0];
  const copies = call.inputs.length === 1 && program!.expr.kind === "name" && program!.expr.name === "x0";
  if (!copies || source!.dtype !== made.dtype || source!.size !== made.size || !source!.contiguous)
    return null;
  // Kernels that bind a view want it at a multiple of 256 bytes: they would only copy it again.
  const aligned = (source!.offset * byteSize(source!.dtype)) % 256 === 0;
  if (!aligned && !readers.every((reader) => reader.program)) return null;
  const read = (t: Tensor) =>
    t.storage === made.storage ? source!.asStrided(t.shape, t.strides, source!.offset + t.offset) : t;
  return readers.map((reader) => reader.call.inputs.map(read));
}

/** The readers with `entry` computed inside them, or null where one cannot take it or it does not pay. */
function merged(entry: Entry, readers: readonly Entry[]): Body[] | null {
  if (!readers.every((reader) => reader.program) || !pays(entry, readers)) return null;
  const bodies: Body[] = [];
  for (const reader of readers) {
    const body = mergedInto(reader, entry);
    if (!body) return null;
    bodies.push(body);
  }
  return bodies;
}

function mergedInto({ call, program }: Entry, { call: inner, program: innerProgram }: Entry): Body | null {
  const made = inner.outputs[0];
  let body = compact({ program: program!, inputs: call.inputs });
  for (;;) {
    const { inputs } = body;
    const at = inputs.findIndex((t) => t.storage === made.storage);
    if (at < 0) break;
    const through = readThrough(inputs[at], made, inner.inputs);
    const whole =
      through && fuseInto(body.program, at, asOperand(innerProgram!, body.program), inputs.length);
    if (!through || !whole) return null;
    body = compact({ program: whole, inputs: inputs.toSpliced(at, 1, ...through) });
  }
  const fits =
    body.inputs.length > 0 &&
    print(body.program.expr).length <= longest &&
    cost(body.program.expr) <= heaviest &&
    walk({ inputs: body.inputs, outputs: call.outputs }).shape.length <= maxAxes;
  return fits ? body : null;
}

/** An inner program in the form in which `outer` may take it without a change of values. */
function asOperand(inner: Program, outer: Program): Program {
  // The seed of every gradient is 1: multiplying by it would be a pass over memory for nothing.
  const { expr } = outer;
  const product = expr.kind === "call" && expr.fn === "*" && expr.args.every((e) => e.kind === "name");
  if (product && inner.expr.kind === "name" && inner.expr.name === "s0" && inner.scalars[0] === 1)
    return { ...inner, expr: number(1), scalars: [] };
  // A truth value is 0 or 1 in every arithmetic.
  if (inner.dtype === "bool" && isTruth(inner.expr)) return { ...inner, dtype: inner.compute };
  return inner;
}

function isTruth(e: Expr): boolean {
  if (e.kind !== "call") return isNumber(e, 0) || isNumber(e, 1);
  if (e.fn === "*") return e.args.every(isTruth);
  if (e.fn === "where") return isTruth(e.args[1]) && isTruth(e.args[2]);
  return isComparison(e) || e.fn === "isnan" || e.fn === "isfinite";
}

/** Each tensor once, and only those that the formula reads; scalars likewise. */
function compact({ program, inputs }: Body): Body {
  const kept: Tensor[] = [];
  const scalars: number[] = [];
  const read = names(program.expr);
  const by = new Map<string, Expr>();
  inputs.forEach((t, i) => {
    if (!read.has(`x${i}`)) return;
    const same = kept.findIndex((other) => sameView(other, t));
    by.set(`x${i}`, name(`x${same < 0 ? kept.push(t) - 1 : same}`));
  });
  program.scalars.forEach((value, i) => {
    if (!read.has(`s${i}`)) return;
    const same = scalars.findIndex((other) => Object.is(other, value));
    by.set(`s${i}`, name(`s${same < 0 ? scalars.push(value) - 1 : same}`));
  });
  return { program: { ...program, expr: substitute(program.expr, by), scalars }, inputs: kept };
}

function sameView(a: Tensor, b: Tensor): boolean {
  const same = a.storage === b.storage && a.offset === b.offset && sameShape(a.shape, b.shape);
  return same && sameShape(a.strides, b.strides);
}

/**
 * The `inputs` of the call that computed `made` (row-major, at the start of its storage) as views that give the elements
 * of `t`, a view of `made`, in t's order. Null if one axis of `t` crosses an axis boundary of `made` that the inputs do
 * not store contiguously.
 */
function readThrough(t: Tensor, made: Tensor, inputs: readonly Tensor[]): readonly Tensor[] | null {
  if (sameView(t, made)) return inputs;
  const { shape, strides } = collapseAxes(made.shape, [
    contiguousStrides(made.shape),
    ...inputs.map((u) => broadcastStrides(u.shape, u.strides, made.shape)),
  ]);
  const [steps, ...theirs] = strides.map((list) => list.map((s) => s)) as [number[], ...number[][]];
  if (made.size === 1) steps.fill(1);
  let rest = t.offset;
  const first = steps.map((step) => {
    const coordinate = Math.floor(rest / step);
    rest -= coordinate * step;
    return coordinate;
  });
  const low = [...first];
  const high = [...first];
  // Per axis of t: the axis of `made` that it walks, and how far a step goes there.
  const walks = t.shape.map((extent, i): [axis: number, step: number] => {
    const stride = extent === 1 ? 0 : t.strides[i];
    const axis = steps.findIndex((step) => stride % step === 0);
    const step = stride / steps[axis];
    (step < 0 ? low : high)[axis] += step * (extent - 1);
    return [axis, step];
  });
  if (low.some((c) => c < 0) || high.some((c, axis) => c >= shape[axis])) return null;
  return inputs.map((u, k) =>
    u.asStrided(
      t.shape,
      walks.map(([axis, step]) => step * theirs[k][axis]),
      first.reduce((at, c, axis) => at + c * theirs[k][axis], u.offset),
    ),
  );
}

/** Whether computing `entry` again in each place where it is read costs less than storing it once. */
function pays({ call, program }: Entry, readers: readonly Entry[]): boolean {
  const made = call.outputs[0];
  const { size } = made;
  const large = call.inputs.filter((t) => t.size * 2 > size);
  // Reading out of order is as slow as some arithmetic.
  const work = cost(program!.expr) + passWork * large.filter((t) => !t.contiguous).length;
  const views = readers.flatMap((reader) =>
    reader.call.inputs
      .filter((t, i, all) => t.storage === made.storage && all.findIndex((u) => sameView(u, t)) === i)
      .map((t) => ({ t, elements: reader.call.outputs[0].size })),
  );
  const elements = views.reduce((sum, view) => sum + view.elements, 0);
  if (size <= dispatchWork / 4 && work * (elements - size) <= dispatchWork) return true;
  const reorders = views.some(({ t }) => !t.contiguous);
  if (views.some((view) => view.elements > size) || (reorders && large.length > 1)) return false;
  const reads = views.length;
  return work * (reads - 1) <= passWork && large.length * reads <= large.length + 1 + reads;
}
