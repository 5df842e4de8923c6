import { Storage, type TracedStep } from "../device.ts";
import { byteSize } from "../dtype.ts";
import { KilnError } from "../errors.ts";
import { collectHostWork } from "../host_work.ts";
import { mutatedInputs } from "../op.ts";
import { copyOp } from "../primitives.ts";
import { forEachTensor, scope } from "../scope.ts";
import { endHistory } from "../tape.ts";
import { apply, Tensor } from "../tensor.ts";
import { type Dispatch, describeDispatch, type TracedCall, type Work } from "./call.ts";
import type { WebGpuHost } from "./host.ts";
import { lowerAndEmit } from "./lowering.ts";
import type { Kernel } from "./pipelines.ts";
import { type Slot, sizeClass, slotOf } from "./pool.ts";
import { uniformSlot } from "./recorder.ts";

/** One dispatch of a replay: everything that the encoder is given, made once. */
interface Command {
  kernel: Kernel;
  group: GPUBindGroup;
  /** Byte offset of its uniforms, or -1 for a kernel without. */
  uniforms: number;
  dispatch: Dispatch;
}

const collector = new FinalizationRegistry<{ device: WebGpuHost; slots: readonly Slot[] }>(
  ({ device, slots }) => {
    giveBack(device, slots);
  },
);

/** The last replay may not be submitted yet, and an upload into one of these slots must not overtake it. */
function giveBack(device: WebGpuHost, slots: readonly Slot[]): void {
  for (const slot of slots) {
    device.recorder.touch(slot);
    device.pool.give(slot);
  }
}

/** Kernels that a driver has run. */
const rehearsed = new WeakSet<Kernel>();

/** A traced step: its dispatches with memory planned by liveness, replayed without creating objects. */
export class CompiledStep<R> implements TracedStep<R> {
  readonly #device: WebGpuHost;
  readonly #args: Tensor[];
  readonly #result: R;
  readonly #commands: Command[] = [];
  readonly #slots: readonly Slot[];
  readonly #offsets = new Uint32Array(1);
  /** Buffers of outside tensors that the steps use. */
  readonly #touched = new Set<Slot>();
  /** Captured tensors and constants, kept alive with the step; and whether each needed a gradient. */
  readonly #captured = new Map<Tensor, boolean>();
  /** Captured storages that the steps update in place. */
  readonly #updated = new Set<Storage>();
  readonly #hostWork: (() => void)[] = [];
  /** Whether every kernel is known to compile. */
  #compiled = false;

  constructor(device: WebGpuHost, step: (...args: Tensor[]) => R, args: readonly Tensor[]) {
    this.#device = device;
    if (device.trace) throw new KilnError("compile: a compiled step cannot call another compiled step");
    this.#args = args.map((t) => new Tensor(new Storage(device, t.dtype, t.size, null), t.shape));
    // The plan outlives whatever scope the first call is in.
    for (const t of this.#args) t.storage.moveTo(null);
    const { calls, result } = this.#traceStep(step, args);
    this.#result = result;
    const works = this.#lowerAll(prune(calls, this.#live()));
    const slots = this.#planMemory(works);
    // Returns the buffers when the step becomes unreachable.
    this.#slots = [...new Set(slots.values())];
    collector.register(this, { device, slots: this.#slots }, this);
    this.#build(works, slots);
  }

  /** Gives the memory back at once; the plan must not be replayed any more. */
  discard(): void {
    collector.unregister(this);
    giveBack(this.#device, this.#slots);
  }

  #traceStep(step: (...args: Tensor[]) => R, args: readonly Tensor[]) {
    const calls: TracedCall[] = [];
    this.#device.trace = calls;
    collectHostWork(this.#hostWork);
    try {
      this.#args.forEach((t, i) => {
        t.requiresGrad = args[i].requiresGrad;
      });
      const result = scope(() => {
        const made = step(...this.#args);
        return mapTensors(made, (t) => {
          this.#capture(t);
          const whole = t.contiguous && t.offset === 0 ? t : apply(copyOp(), [t], {} as never)[0];
          return Object.assign(whole.detach(), { requiresGrad: t.requiresGrad });
        }) as R;
      });
      forEachTensor(result, (t) => t.storage.moveTo(null));
      for (const { inputs } of calls) for (const t of inputs) this.#capture(t);
      return { calls, result };
    } finally {
      this.#device.trace = null;
      collectHostWork(null);
      // Tracing overwrote nothing.
      for (const { op, inputs } of calls) {
        for (const i of mutatedInputs(op, inputs.length)) inputs[i].storage.version--;
      }
    }
  }

  /** Notes a tensor from outside that the step reads or returns. */
  #capture(t: Tensor): void {
    const source = t.leaf ?? t;
    if (t.storage.handle !== null) this.#captured.set(source, source.requiresGrad);
  }

  /** Whether tracing the step now would give this plan again, as far as its captured tensors tell. */
  get current(): boolean {
    for (const [t, needed] of this.#captured) if (t.storage.freed || t.requiresGrad !== needed) return false;
    return true;
  }

  /** Storages that must survive the step: its results. */
  #live(): Set<Storage> {
    const live = new Set<Storage>();
    forEachTensor(this.#result, (t) => live.add(t.storage));
    return live;
  }

  #lowerAll(calls: TracedCall[]): Work[] {
    const device = this.#device;
    let rewritten = calls;
    for (const rewrite of device.rewrites) rewritten = rewrite(rewritten, this.#live());
    const works: Work[] = [];
    const env = {
      profile: device.profile,
      pipelines: device.pipelines,
      forcedVariant: device.forcedVariant,
      tuner: device.tuner,
      // Temporaries of the lowering are planned like everything else.
      allocate: (dtype: Storage["dtype"], length: number) => new Storage(device, dtype, length, null),
      emit: (work: Work) => {
        device.showDispatch("plan", work);
        works.push(work);
      },
    };
    const inputs = new Set(this.#args.map((t) => t.storage));
    for (const { op, inputs: given, attrs, outputs } of rewritten) {
      for (const i of mutatedInputs(op, given.length)) {
        const { storage } = given[i];
        if (storage.handle !== null) this.#updated.add(storage);
        if (inputs.has(storage)) {
          throw new KilnError(
            `compile: ${op.name} updates an argument of the step in place; capture that tensor instead`,
          );
        }
      }
      lowerAndEmit(env, op, given, attrs, outputs);
    }
    return works;
  }

  /** Gives every virtual storage a slot of the pool, shared by storages that are never needed together. */
  #planMemory(works: readonly Work[]): Map<Storage, Slot> {
    const last = new Map<Storage, number>();
    works.forEach((work, i) => {
      for (const s of work.storages) last.set(s, i);
    });
    for (const s of this.#live()) last.set(s, Number.POSITIVE_INFINITY);
    const slots = new Map<Storage, Slot>();
    const idle = new Map<number, Slot[]>();
    const assign = (storage: Storage) => {
      const bytes = sizeClass(Math.max(storage.length, 1) * byteSize(storage.dtype));
      slots.set(storage, idle.get(bytes)?.pop() ?? this.#device.pool.take(bytes - 256));
    };
    for (const t of this.#args) assign(t.storage);
    for (const s of this.#live()) {
      if (s.handle !== null) this.#touched.add(slotOf(s));
      else if (!slots.has(s)) assign(s);
    }
    works.forEach((work, i) => {
      for (const s of work.storages) {
        if (s.handle !== null) this.#touched.add(slotOf(s));
        else if (!slots.has(s)) assign(s);
      }
      for (const s of new Set(work.storages)) {
        const slot = slots.get(s);
        if (!slot || last.get(s) !== i) continue;
        const list = idle.get(slot.bytes);
        if (list) list.push(slot);
        else idle.set(slot.bytes, [slot]);
      }
    });
    return slots;
  }

  #build(works: readonly Work[], slots: Map<Storage, Slot>): void {
    const device = this.#device;
    let words = 0;
    const starts = works.map(({ kernel }) => {
      const at = words;
      words += Math.ceil((kernel.params.words * 4) / uniformSlot) * uniformSlot;
      return at;
    });
    const bytes = new Uint8Array(Math.max(words, uniformSlot));
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const uniforms = device.gpu.createBuffer({ size: bytes.byteLength, usage });
    works.forEach((work, i) => {
      const { kernel } = work;
      bytes.set(work.params, starts[i]);
      const bound = work.storages.map((s) => slots.get(s) ?? slotOf(s));
      this.#commands.push({
        kernel,
        group: device.makeBindGroup(work, bound, uniforms),
        uniforms: kernel.hasParams ? starts[i] : -1,
        dispatch: describeDispatch(work),
      });
    });
    device.gpu.queue.writeBuffer(uniforms, 0, bytes);
    for (const t of this.#args) t.storage.handle = slots.get(t.storage)!;
    forEachTensor(this.#result, (t) => {
      const slot = slots.get(t.storage);
      if (slot) t.storage.handle = slot;
    });
  }

  /** Number of dispatches in a replay. */
  get length(): number {
    return this.#commands.length;
  }

  replay(args: readonly Tensor[]): R {
    this.#record(args, this.#commands);
    const result = mapTensors(this.#result, (t) => {
      const copy = new Tensor(this.#device.allocate(t.dtype, t.size), t.shape);
      if (t.requiresGrad) endHistory(copy);
      this.#copy(t.storage, 0, copy.storage, t.size);
      this.#device.recorder.touch(slotOf(copy.storage));
      return copy;
    }) as R;
    this.#device.recorder.recorded(this.#commands.length);
    return result;
  }

  rehearse(args: readonly Tensor[]): void {
    const fresh = this.#commands.filter(({ kernel }) => !rehearsed.has(kernel) && rehearsed.add(kernel));
    this.#record(args, fresh);
    // A driver compiles when a kernel first runs: it does so while the next step is traced.
    this.#device.recorder.flush();
  }

  #record(args: readonly Tensor[], commands: readonly Command[]): void {
    const { recorder } = this.#device;
    for (const work of this.#hostWork) work();
    args.forEach((given, i) => {
      // Buffers are copied by four bytes: an f16 view may start between them.
      const copies = given.contiguous && (given.offset * byteSize(given.dtype)) % 4 === 0;
      const t = copies ? given : apply(copyOp(), [given], {} as never)[0];
      recorder.touch(slotOf(t.storage));
      this.#copy(t.storage, t.offset, this.#args[i].storage, t.size);
    });
    // Anything that can fail comes before the encoder is used.
    if (!this.#compiled) for (const { kernel } of this.#commands) void kernel.pipeline;
    this.#compiled = true;
    for (const slot of this.#touched) recorder.touch(slot);
    let pass: GPUComputePassEncoder | null = null;
    let kernel: Kernel | null = null;
    for (const command of commands) {
      const { grid } = command.dispatch;
      const open = recorder.compute(command.dispatch);
      if (command.kernel !== kernel || open !== pass) open.setPipeline(command.kernel.pipeline);
      kernel = command.kernel;
      pass = open;
      if (command.uniforms < 0) pass.setBindGroup(0, command.group);
      else {
        this.#offsets[0] = command.uniforms;
        pass.setBindGroup(0, command.group, this.#offsets, 0, 1);
      }
      pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    }
    for (const storage of this.#updated) storage.version++;
  }

  #copy(from: Storage, offset: number, to: Storage, length: number): void {
    const unit = byteSize(from.dtype);
    const bytes = Math.ceil((length * unit) / 4) * 4;
    const source = slotOf(from);
    const target = slotOf(to);
    if (bytes > 0) this.#device.recorder.copy(source.buffer, offset * unit, target.buffer, 0, bytes);
  }
}

/** Drops calls whose results are unused. */
function prune(calls: readonly TracedCall[], live: ReadonlySet<Storage>): TracedCall[] {
  const needed = new Set(live);
  const kept: TracedCall[] = [];
  for (const call of [...calls].reverse()) {
    const used =
      mutatedInputs(call.op, call.inputs.length).length > 0 ||
      call.outputs.some((t) => needed.has(t.storage));
    if (!used) continue;
    for (const t of call.inputs) needed.add(t.storage);
    kept.push(call);
  }
  return kept.reverse();
}

/** The same structure with every tensor replaced. */
function mapTensors(value: unknown, replace: (t: Tensor) => Tensor): unknown {
  if (value instanceof Tensor) return replace(value);
  if (Array.isArray(value)) return value.map((item) => mapTensors(item, replace));
  if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapTensors(item, replace)]));
  }
  return value;
}
