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
import type { TracedCall } from "./device.ts";
import type { Kernel, Pipelines } from "./pipelines.ts";

/** One dispatch, ready to be recorded or to become part of a plan. */
export interface Work {
  readonly kernel: Kernel;
  readonly storages: readonly Storage[];
  /** Byte offset of each storage, a multiple of 256. */
  readonly offsets: readonly number[];
  readonly params: NonNullable<Pass["params"]>;
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
  allocate(dtype: DType, length: number): Storage;
  emit(work: Work): void;
}

/** Turns one call of an op into dispatches: copies what the variant cannot read, chooses the variant, plans passes. */
export function lower(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  attrs: unknown,
  outputs: readonly Tensor[],
  forced: string | undefined = env.forcedVariant.get(op.name),
): void {
  if (outputs.length > 0 && outputs.every((t) => numel(t.shape) === 0)) return;
  const strided = chooseVariant(env, op, inputs, attrs, outputs, { raw: true, forced });
  const borrowed: Storage[] = [];
  let variant = strided;
  let given = inputs;
  if (!strided?.strided) {
    given = inputs.map((_, i) => bindable(env, op, inputs, i, borrowed));
    variant = chooseVariant(env, op, given, attrs, outputs, { raw: false, forced });
  }
  if (!variant) throw new KilnError(`${op.name}: no kernel variant can run this call on ${env.profile.name}`);
  const call = makeCall(env, given, attrs, outputs);
  const lowering = asLowering(variant.plan(call));
  const temps = (lowering.temps ?? []).map(
    ({ dtype, length }) => new Tensor(env.allocate(dtype, length), [length]),
  );
  borrowed.push(...temps.map((t) => t.storage));
  for (const pass of lowering.passes) {
    emitPass(env, op, variant, pass, attrs, { in: given, out: outputs, tmp: temps });
  }
  for (const storage of borrowed) storage.free();
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
    // Contiguous-only variants are judged on the copies that they would be given.
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

/** An input itself where it can be bound as it is, else a contiguous copy. */
function bindable(
  env: LowerEnv,
  op: AnyOp,
  inputs: readonly Tensor[],
  index: number,
  borrowed: Storage[],
): Tensor {
  const t = inputs[index]!;
  if (isBindable(t)) return t;
  if (mutatedInputs(op, inputs.length).includes(index)) {
    throw new KilnError(
      `${op.name}: input ${index} is updated in place and must be contiguous and start on 256 bytes`,
    );
  }
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

function emitPass(
  env: LowerEnv,
  op: AnyOp,
  variant: Variant<never>,
  pass: Pass,
  attrs: unknown,
  tensors: Record<"in" | "out" | "tmp", readonly Tensor[]>,
): void {
  const [x, y = 1, z = 1] = pass.grid;
  if (x === 0 || y === 0 || z === 0) return;
  const bound = pass.bind
    ? pass.bind.map((name) => tensors[name.replace(/\d+$/, "") as "in"][Number(/\d+$/.exec(name)![0])]!)
    : [...tensors.in, ...tensors.out, ...tensors.tmp];
  const file = pass.file ?? variant.file;
  const dtypes = (list: readonly Tensor[]) => list.map((t) => t.dtype);
  const kernel = env.pipelines.get(file, pass.defines ?? {}, dtypes(tensors.in), dtypes(tensors.out));
  if (kernel.storage.length !== bound.length) {
    throw new Error(
      `${op.name}/${variant.name}: ${file} declares ${kernel.storage.length} storage bindings, the pass gives ${bound.length}`,
    );
  }
  env.emit({
    kernel,
    storages: bound.map((t) => t.storage),
    offsets: bound.map((t) => (variant.strided ? 0 : t.offset * byteSize(t.dtype))),
    params: pass.params ?? {},
    grid: [x, y, z],
    label: `${op.name}/${variant.name}`,
    call: { op, inputs: tensors.in, attrs, outputs: tensors.out },
    bound,
  });
}
