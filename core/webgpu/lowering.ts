import type { Storage } from "../device.ts";
import { byteSize } from "../dtype.ts";
import { KilnError } from "../errors.ts";
import {
  type AnyOp,
  type Call,
  type DeviceProfile,
  type Lowering,
  mutatedInputs,
  type Pass,
  type TensorMeta,
  type Variant,
} from "../op.ts";
import { copyOp } from "../primitives.ts";
import { numel } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { packParams } from "../wgsl.ts";
import type { LowerEnv, Work } from "./call.ts";

/** How calls of one signature (op, layouts, attributes) become dispatches: nothing in it depends on which tensors they are. */
export interface LoweredCall {
  /** Inputs that the variant can only read from a contiguous copy. */
  readonly copies: readonly number[];
  readonly temps: NonNullable<Lowering["temps"]>;
  readonly passes: readonly LoweredPass[];
}

interface LoweredPass extends Pick<Work, "kernel" | "params" | "grid" | "label"> {
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
export function lower(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  { forced = env.forcedVariant.get(op.name), option }: Choice = {},
): LoweredCall {
  if (outputs.length > 0 && outputs.every((t) => numel(t.shape) === 0))
    return { copies: [], temps: [], passes: [] };
  let variant = chooseVariant(env, op, inputs, attrs, outputs, { raw: true, forced });
  let given = inputs;
  if (!variant || !isStrided(variant, makeCall(env, inputs, attrs, outputs))) {
    // Contiguous-only variants are judged and planned on the copies that they will be given.
    given = copied(op, inputs);
    variant = chooseVariant(env, op, given, attrs, outputs, { raw: false, forced });
  }
  if (!variant) {
    const views = hasMutatedView(op, inputs)
      ? "; a view that it updates in place must be contiguous and start on 256 bytes: update a copy"
      : "";
    throw new KilnError(`${op.name}: no kernel variant can run this call on ${env.profile.name}${views}`);
  }
  const copies = inputs.flatMap((t, i) => (given[i] === t ? [] : [i]));
  const chosen = variant;
  const call = makeCall(env, given, attrs, outputs);
  const planned = chosen.plan(call, option ?? env.tuner.optionOf(op, chosen, call));
  const { passes, temps = [] } = asLowering(planned);
  return {
    copies,
    temps,
    passes: passes.flatMap((pass) => lowerPass(env, op, chosen, pass, call, temps) ?? []),
  };
}

/** Emits the dispatches of a lowered for the tensors of a call. */
export function emit(
  env: LowerEnv,
  lowered: LoweredCall,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
): void {
  const { copies, temps, passes } = lowered;
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

/** `lower` and `emit` in one. */
export function lowerAndEmit(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  forced?: string,
): void {
  emit(env, lower(env, op, inputs, attrs, outputs, { forced }), op, inputs, attrs, outputs);
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
    const takesViews = isStrided(variant, call);
    // An update of a copy would be lost.
    if (!takesViews && hasMutatedView(op, inputs)) return false;
    return variant.when?.(raw && !takesViews ? { ...call, inputs: copied(op, inputs) } : call) ?? true;
  });
}

/** The inputs with contiguous copies in place of views, but for those that are updated in place. */
function copied(op: AnyOp, inputs: readonly Tensor[]): readonly Tensor[] {
  const mutated = mutatedInputs(op, inputs.length);
  return inputs.map((t, i) => (isBindable(t) || mutated.includes(i) ? t : new Tensor(t.storage, t.shape)));
}

function hasMutatedView(op: AnyOp, inputs: readonly Tensor[]): boolean {
  return mutatedInputs(op, inputs.length).some((i) => !isBindable(inputs[i]));
}

function isStrided({ strided = false }: Variant<never>, call: Call<never>): boolean {
  return typeof strided === "function" ? strided(call) : strided;
}

function isBindable(t: Tensor): boolean {
  return t.contiguous && (t.offset * byteSize(t.dtype)) % 256 === 0;
}

function contiguousCopy(env: LowerEnv, t: Tensor, borrowed: Storage[]): Tensor {
  const copy = new Tensor(env.allocate(t.dtype, t.size), t.shape);
  borrowed.push(copy.storage);
  // Not even a test may force a variant here: one that cannot read the view would ask for this copy again.
  const free = copyOp().variants.find((v) => v.strided === true)?.name;
  lowerAndEmit(env, copyOp(), [t], {}, [copy], free);
  return copy;
}

function asLowering(plan: Pass | Lowering): Lowering {
  return "passes" in plan ? plan : { passes: [plan] };
}

function lowerPass(
  env: LowerEnv,
  op: AnyOp,
  variant: Variant<never>,
  pass: Pass,
  call: Call<never>,
  temps: LoweredCall["temps"],
): LoweredPass | null {
  const { inputs, outputs } = call;
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
  const dtypes = (list: readonly TensorMeta[]) => list.map((t) => t.dtype);
  const kernel = env.pipelines.get(file, pass.defines ?? {}, dtypes(inputs), dtypes(outputs));
  if (kernel.storage.length !== bind.length) {
    throw new Error(
      `${op.name}/${variant.name}: ${file} declares ${kernel.storage.length} storage bindings, the pass gives ${bind.length}`,
    );
  }
  const params = new Uint8Array(kernel.hasParams ? kernel.params.words * 4 : 0);
  if (kernel.hasParams) packParams(kernel.params, pass.params ?? {}, new DataView(params.buffer), 0);
  const lists = { in: inputs, out: outputs, tmp: [] };
  const strided = isStrided(variant, call);
  const offsetOf = ({ from, index }: { from: "in" | "out" | "tmp"; index: number }) => {
    const t: TensorMeta | undefined = lists[from][index];
    return strided || !t ? 0 : t.offset * byteSize(t.dtype);
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
