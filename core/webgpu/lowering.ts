import type { Storage } from "../device.ts";
import { byteSize, type DType } from "../dtype.ts";
import { KilnError } from "../errors.ts";
import {
  type AnyOp,
  type Call,
  type DeviceProfile,
  findOp,
  type Lowering,
  mutatedInputs,
  type Pass,
  type Variant,
} from "../op.ts";
import { numel } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { packParams } from "../wgsl.ts";
import type { TracedCall } from "./device.ts";
import type { Kernel, Pipelines } from "./pipelines.ts";
import type { Tuner } from "./tuner.ts";

/** One dispatch, ready to be recorded or to become part of a plan. */
export interface Work {
  readonly kernel: Kernel;
  readonly storages: readonly Storage[];
  /** Byte offset of each storage, a multiple of 256. */
  readonly offsets: readonly number[];
  /** The words of the kernel's `Params`. */
  readonly params: Uint8Array;
  readonly grid: readonly [number, number, number];
  /** `op/variant`. */
  readonly label: string;
  /** The call that this is a dispatch of, and the tensors that the dispatch binds: what a profile is made from. */
  readonly call: TracedCall;
  readonly bound: readonly Tensor[];
}

/** What lowering needs of a device. */
export interface LowerEnv {
  readonly profile: DeviceProfile;
  readonly pipelines: Pipelines;
  /** Tests force a variant by op name. */
  readonly forcedVariant: ReadonlyMap<string, string>;
  readonly tuner: Pick<Tuner, "optionOf">;
  allocate(dtype: DType, length: number): Storage;
  emit(work: Work): void;
}

/** How calls of one signature (op, layouts, attributes) become dispatches: nothing in it depends on which tensors they are. */
export interface Recipe {
  /** Inputs that the variant can only read from a contiguous copy. */
  readonly copies: readonly number[];
  readonly temps: NonNullable<Lowering["temps"]>;
  readonly passes: readonly RecipePass[];
}

interface RecipePass extends Pick<Work, "kernel" | "params" | "grid" | "label"> {
  readonly bind: readonly { from: "in" | "out" | "tmp"; index: number; offset: number }[];
}

/** What tests and measurements may decide in place of the rules. */
interface Choice {
  /** Name of the only variant to take. */
  forced?: string | undefined;
  /** One of the variant's ways to plan the call; see `Variant.tune`. */
  option?: string;
}

/** Turns one call of an op into dispatches: chooses the variant, plans its passes, finds or compiles their kernels. */
export function prepare(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  { forced = env.forcedVariant.get(op.name), option }: Choice = {},
): Recipe {
  if (outputs.length > 0 && outputs.every((t) => numel(t.shape) === 0))
    return { copies: [], temps: [], passes: [] };
  let variant = chooseVariant(env, op, inputs, attrs, outputs, { raw: true, forced });
  let given = inputs;
  if (!variant?.strided) {
    // Contiguous-only variants are judged and planned on the copies that they will be given.
    given = inputs.map((t) => (isBindable(t) ? t : new Tensor(t.storage, t.shape)));
    variant = chooseVariant(env, op, given, attrs, outputs, { raw: false, forced });
  }
  if (!variant) throw new KilnError(`${op.name}: no kernel variant can run this call on ${env.profile.name}`);
  const copies = inputs.flatMap((t, i) => (given[i] === t ? [] : [i]));
  const mutated = copies.find((i) => mutatedInputs(op, inputs.length).includes(i));
  if (mutated !== undefined) {
    throw new KilnError(
      `${op.name}: input ${mutated} is updated in place and must be contiguous and start on 256 bytes`,
    );
  }
  const chosen = variant;
  const call = makeCall(env, given, attrs, outputs);
  const planned = chosen.plan(call, option ?? env.tuner.optionOf(op, chosen, call));
  const { passes, temps = [] } = asLowering(planned);
  return {
    copies,
    temps,
    passes: passes.flatMap((pass) => preparePass(env, op, chosen, pass, given, outputs, temps) ?? []),
  };
}

/** Emits the dispatches of a recipe for the tensors of a call. */
export function emit(
  env: LowerEnv,
  recipe: Recipe,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
): void {
  const { copies, temps, passes } = recipe;
  let given = inputs;
  const borrowed: Storage[] = [];
  if (copies.length > 0) {
    given = inputs.map((t, i) => (copies.includes(i) ? contiguousCopy(env, t, borrowed) : t));
  }
  const tmp = temps.map(({ dtype, length }) => new Tensor(env.allocate(dtype, length), [length]));
  for (const t of tmp) borrowed.push(t.storage);
  const tensors = { in: given, out: outputs, tmp };
  for (const { kernel, params, grid, label, bind } of passes) {
    const bound = bind.map(({ from, index }) => tensors[from][index]);
    env.emit({
      kernel,
      storages: bound.map((t) => t.storage),
      offsets: bind.map((b) => b.offset),
      params,
      grid,
      label,
      call: { op, inputs: given, attrs, outputs },
      bound,
    });
  }
  for (const storage of borrowed) storage.free();
}

/** `prepare` and `emit` in one. */
export function lower(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  forced?: string,
): void {
  emit(env, prepare(env, op, inputs, attrs, outputs, { forced }), op, inputs, attrs, outputs);
}

function makeCall(
  env: LowerEnv,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
): Call<never> {
  return { profile: env.profile, inputs, outputs, attrs: attrs as never };
}

/** The first variant that takes the call; with `raw` inputs only strided variants may see odd layouts. */
function chooseVariant(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  { raw, forced }: { raw: boolean; forced: string | undefined },
): Variant<never> | undefined {
  const call = makeCall(env, inputs, attrs, outputs);
  return op.variants.find((variant) => {
    if (forced !== undefined && variant.name !== forced) return false;
    if (raw && !variant.strided) {
      const copies = inputs.map((t) => (isBindable(t) ? t : new Tensor(t.storage, t.shape)));
      return variant.when?.({ ...call, inputs: copies }) ?? true;
    }
    return variant.when?.(call) ?? true;
  });
}

function isBindable(t: Tensor): boolean {
  return t.contiguous && (t.offset * byteSize(t.dtype)) % 256 === 0;
}

function contiguousCopy(env: LowerEnv, t: Tensor, borrowed: Storage[]): Tensor {
  const copy = new Tensor(env.allocate(t.dtype, t.size), t.shape);
  borrowed.push(copy.storage);
  // Not even a test may force a variant here: one that cannot read the view would ask for this copy again.
  const free = findOp("copy").variants.find((v) => v.strided)?.name;
  lower(env, findOp("copy"), [t], {}, [copy], free);
  return copy;
}

function asLowering(plan: Pass | Lowering): Lowering {
  return "passes" in plan ? plan : { passes: [plan] };
}

function preparePass(
  env: LowerEnv,
  op: AnyOp,
  variant: Variant<never>,
  pass: Pass,
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  temps: Recipe["temps"],
): RecipePass | null {
  const [x, y = 1, z = 1] = pass.grid;
  if (x === 0 || y === 0 || z === 0) return null;
  const every = (from: "in" | "out" | "tmp", list: readonly unknown[]) =>
    list.map((_, index) => ({ from, index }));
  const named = pass.bind?.map((name) => ({
    from: name.replace(/\d+$/, "") as "in",
    index: Number(/\d+$/.exec(name)![0]),
  }));
  const bind = named ?? [...every("in", inputs), ...every("out", outputs), ...every("tmp", temps)];
  checkLimits(env.profile, op, Math.max(x, y, z), bind.length);
  const file = pass.file ?? variant.file;
  const dtypes = (list: readonly Tensor[]) => list.map((t) => t.dtype);
  const kernel = env.pipelines.get(file, pass.defines ?? {}, dtypes(inputs), dtypes(outputs));
  if (kernel.storage.length !== bind.length) {
    throw new Error(
      `${op.name}/${variant.name}: ${file} declares ${kernel.storage.length} storage bindings, the pass gives ${bind.length}`,
    );
  }
  const params = new Uint8Array(kernel.hasParams ? kernel.params.words * 4 : 0);
  if (kernel.hasParams) packParams(kernel.params, pass.params ?? {}, new DataView(params.buffer), 0);
  const lists = { in: inputs, out: outputs, tmp: [] as Tensor[] };
  const offsetOf = ({ from, index }: { from: "in" | "out" | "tmp"; index: number }) => {
    const t = lists[from][index];
    return variant.strided || !t ? 0 : t.offset * byteSize(t.dtype);
  };
  return {
    kernel,
    params,
    grid: [x, y, z],
    label: `${op.name}/${variant.name}`,
    bind: bind.map((b) => ({ ...b, offset: offsetOf(b) })),
  };
}

/** WebGPU guarantees 8 storage buffers a kernel and 65,535 workgroups along an axis of a grid. */
function checkLimits(profile: DeviceProfile, op: AnyOp, extent: number, buffers: number): void {
  const { maxGridExtent, maxStorageBuffers, name } = profile;
  if (extent > maxGridExtent) {
    throw new KilnError(
      `${op.name}: a grid of ${extent} workgroups is over the ${maxGridExtent} that ${name} takes along an axis; split the batch`,
    );
  }
  if (buffers > maxStorageBuffers) {
    throw new KilnError(
      `${op.name}: this call binds ${buffers} buffers to a kernel, ${name} takes ${maxStorageBuffers}; leave an optional input out (a mask beside segments, say)`,
    );
  }
}
