import { type StepCompiler, Storage, setDevice } from "../device.ts";
import { byteSize, type DType, decode, encode, type HostArray } from "../dtype.ts";
import { KilnError } from "../errors.ts";
import type { AnyOp, DeviceProfile, MatrixShape } from "../op.ts";
import { type AdapterDescription, type AdapterOptions, openAdapter } from "../platform/adapter.ts";
import { collectWith } from "../platform/garbage.ts";
import type { Tensor } from "../tensor.ts";
import { type SourceReader, showParams } from "../wgsl.ts";
import { describeDispatch, type TracedCall, type TraceRewrite, type Work } from "./call.ts";
import { CompiledStep } from "./compiled_step.ts";
import type { WebGpuHost } from "./host.ts";
import { emit, type LoweredCall, lower } from "./lowering.ts";
import { matrixFeature, matrixShapes } from "./matrix_units.ts";
import { debugLevel, Pipelines } from "./pipelines.ts";
import { Pool, type Slot, sizeClass, slotOf } from "./pool.ts";
import { Recorder } from "./recorder.ts";
import { signatureOf } from "./signature.ts";
import { openTuner, type Tuner } from "./tuner.ts";
import { awaitIdle } from "./waiting.ts";

/** Bytes of a read that a kept buffer serves. */
const smallRead = 4096;

/** Runs variants of ops through WebGPU: eager in meaning, recorded in execution. */
export class WebGpuDevice implements WebGpuHost {
  readonly kind = "webgpu";
  readonly profile: DeviceProfile;
  readonly description: AdapterDescription;
  readonly gpu: GPUDevice;
  readonly pool: Pool;
  readonly recorder: Recorder;
  readonly pipelines: Pipelines;
  readonly tuner: Tuner;
  readonly compiler: StepCompiler = {
    trace: (step, args) => new CompiledStep(this, step, args),
    measure: () => this.tuner.measure(this),
    warm: () => this.pipelines.warm(),
  };
  /** What compiled steps do to their calls, in this order; kernels give them when they open the device. */
  rewrites: readonly TraceRewrite[] = [];
  /** Tests force a variant by op name. */
  readonly forcedVariant = new Map<string, string>();
  /** Tests fill fresh memory with NaN, so that a kernel that forgets a cell is seen. */
  poison = false;
  /** The shapes that the adapter reports for its matrix units; whether they work is tested when the device is opened. */
  matrixShapes: readonly MatrixShape[] = [];
  /** The calls of the step that `compile` is tracing, or null. */
  trace: TracedCall[] | null = null;
  readonly #debug = debugLevel();
  readonly #lowered = new Map<string, LoweredCall>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #dynamicOffset = new Uint32Array(1);
  #failure: KilnError | null = null;
  /** Buffers of `smallRead` bytes for reading, kept. */
  readonly #staging: GPUBuffer[] = [];

  constructor(
    gpu: GPUDevice,
    description: AdapterDescription,
    profile: DeviceProfile,
    read: SourceReader,
    tuner: Tuner,
  ) {
    this.gpu = gpu;
    this.description = description;
    this.profile = profile;
    const check = () => this.#check();
    this.pool = new Pool(gpu, check);
    this.recorder = new Recorder(gpu, (epoch, error) => this.#lose(epoch, error));
    this.pipelines = new Pipelines(gpu, profile, read, check);
    this.tuner = tuner;
    gpu.onuncapturederror = ({ error }) => {
      this.#failure ??= webgpuError(error);
    };
    void gpu.lost.then(({ reason, message }) => {
      this.#failure = lostError(reason, message);
    });
  }

  get bytesInUse(): number {
    return this.pool.bytesInUse;
  }

  allocate(dtype: DType, length: number): Storage {
    this.#checkDType(dtype);
    if (this.trace) return new Storage(this, dtype, length, null);
    const slot = this.pool.take(Math.max(length, 1) * byteSize(dtype));
    const storage = new Storage(this, dtype, length, slot);
    if (this.poison) this.#writeBytes(slot, 0, new Uint8Array(slot.bytes).fill(0xff));
    return storage;
  }

  #checkDType(dtype: DType): void {
    if (dtype === "f16" && !this.profile.f16)
      throw new KilnError(
        `f16 tensors need an adapter with shader-f16, which ${this.profile.name} lacks; use f32`,
      );
  }

  upload(values: ArrayLike<number>, dtype: DType): Storage {
    this.#checkDType(dtype);
    const slot = this.pool.take(Math.max(values.length, 1) * byteSize(dtype));
    const storage = new Storage(this, dtype, values.length, slot);
    if (this.trace) storage.moveTo(null);
    this.#writeBytes(slot, 0, encode(values, dtype));
    return storage;
  }

  write(storage: Storage, values: ArrayLike<number>, offset: number): void {
    if (this.trace)
      throw new KilnError("write: a compiled step cannot write host values; pass them as an argument");
    const unit = byteSize(storage.dtype);
    const end = offset + values.length;
    if ((offset * unit) % 4 !== 0 || ((end * unit) % 4 !== 0 && end < storage.length)) {
      throw new KilnError(
        "write: f16 values are written in pairs, and this view starts or ends inside of one; write a view of even offset and size",
      );
    }
    const slot = slotOf(storage);
    if (offset === 0 && end === storage.length) slot.lost = null;
    this.#writeBytes(slot, offset * unit, encode(values, storage.dtype));
  }

  /** `queue.writeBuffer` overtakes the open encoder: work recorded on this slot must be submitted first. */
  #writeBytes(slot: Slot, at: number, bytes: Uint8Array<ArrayBuffer>): void {
    if (bytes.byteLength === 0) return;
    if (slot.lastEpoch === this.recorder.epoch) this.recorder.flush();
    // writeBuffer takes multiples of 4 bytes; the tail is padding of the slot.
    const padded = bytes.byteLength % 4 === 0 ? bytes : paddedCopy(bytes);
    this.gpu.queue.writeBuffer(slot.buffer, at, padded);
  }

  async read(storage: Storage, offset: number, length: number): Promise<HostArray> {
    if (this.trace)
      throw new KilnError(
        "reading a value inside a compiled step: return the tensor and read it after the step",
      );
    const slot = slotOf(storage);
    const start = offset * byteSize(storage.dtype);
    const aligned = Math.floor(start / 4) * 4;
    const bytes = Math.ceil((start - aligned + length * byteSize(storage.dtype)) / 4) * 4;
    if (length === 0) return decode(new ArrayBuffer(0), storage.dtype, 0);
    if (slot.lost) throw slot.lost;
    const staging = this.#takeStaging(bytes);
    this.recorder.copy(slot.buffer, aligned, staging, 0, bytes);
    this.recorder.flush();
    const { verified } = this.recorder;
    try {
      await this.settled(staging.mapAsync(GPUMapMode.READ));
    } catch (error) {
      throw this.#failure ?? error;
    }
    const copy = staging.getMappedRange(0, bytes).slice(start - aligned);
    this.#giveStaging(staging);
    const refused = await verified;
    if (refused ?? slot.lost) {
      this.#forget();
      throw refused ?? slot.lost;
    }
    this.#check();
    return decode(copy, storage.dtype, length);
  }

  /** A buffer to read `bytes` through. Small ones are reused: a server reads a few ids per step, and creating a buffer took longer than the copy. */
  #takeStaging(bytes: number): GPUBuffer {
    const kept = bytes <= smallRead ? this.#staging.pop() : undefined;
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    return kept ?? this.gpu.createBuffer({ size: Math.max(bytes, smallRead), usage });
  }

  #giveStaging(buffer: GPUBuffer): void {
    if (buffer.size > smallRead || this.#staging.length >= 4) buffer.destroy();
    else {
      buffer.unmap();
      this.#staging.push(buffer);
    }
  }

  /** Marks the buffers that a dropped submit may have written, or that were derived from them: using them throws. */
  #lose(epoch: number, error: GPUError): KilnError {
    const cause = this.#failure ?? webgpuError(error);
    const lost = new KilnError(`work on this tensor did not run, its value is lost: ${cause.message}`, {
      code: "webgpu_error",
      cause,
    });
    for (const slot of this.pool.slots) if (slot.lastEpoch >= epoch) slot.lost = lost;
    this.#failure ??= lost;
    return lost;
  }

  /** Throws the error that the device has reported since the last check. */
  #check(): void {
    const failure = this.#failure;
    if (!failure) return;
    this.#forget();
    throw failure;
  }

  /** An error is thrown once, unless the device is lost. */
  #forget(): void {
    if (this.#failure?.code !== "device_lost") this.#failure = null;
  }

  run(op: AnyOp, inputs: readonly Tensor[], attrs: unknown, outputs: readonly Tensor[]): void {
    if (this.trace) this.trace.push({ op, inputs, attrs, outputs });
    else emit(this, this.#lower(op, inputs, attrs, outputs), op, inputs, attrs, outputs);
  }

  /** The lowered form of a call, cached by its signature. */
  #lower(op: AnyOp, inputs: readonly Tensor[], attrs: unknown, outputs: readonly Tensor[]): LoweredCall {
    const signature = this.forcedVariant.size > 0 ? null : signatureOf(op.name, inputs, attrs, outputs);
    if (signature === null) return lower(this, op, inputs, attrs, outputs);
    let lowered = this.#lowered.get(signature);
    if (!lowered) {
      if (this.#lowered.size > 4096) this.#lowered.clear();
      lowered = lower(this, op, inputs, attrs, outputs);
      this.#lowered.set(signature, lowered);
    }
    return lowered;
  }

  forgetLowered(): void {
    this.#lowered.clear();
  }

  /** `DEBUG=3`: prints a line per dispatch that is recorded, or planned by a compiled step. */
  showDispatch(verb: "dispatch" | "plan", { kernel, params, grid, label }: Work): void {
    if (this.#debug >= 3) console.error(`${verb} ${label} [${grid}] ${showParams(kernel.params, params)}`);
  }

  /** Records one dispatch. */
  emit(work: Work): void {
    const { kernel, params, grid } = work;
    this.showDispatch("dispatch", work);
    const { recorder } = this;
    let at = 0;
    if (kernel.hasParams) {
      at = recorder.uniforms(kernel.params.words);
      recorder.staging.set(params, at);
    }
    // Anything that can fail comes before the encoder is used, so that no recorded work is lost with it.
    const { pipeline } = kernel;
    const group = this.#bindGroup(work, recorder.ring);
    for (const storage of work.storages) recorder.touch(slotOf(storage));
    const pass = recorder.compute(recorder.stamp && describeDispatch(work));
    pass.setPipeline(pipeline);
    if (kernel.hasParams) {
      this.#dynamicOffset[0] = at;
      pass.setBindGroup(0, group, this.#dynamicOffset, 0, 1);
    } else pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    recorder.recorded();
  }

  /** A cached bind group for eager work: the uniform ring and these slots. */
  #bindGroup(work: Work, ring: GPUBuffer): GPUBindGroup {
    const slots = work.storages.map(slotOf);
    let key = String(work.kernel.id);
    for (let i = 0; i < slots.length; i++) key += `,${slots[i].id}+${work.offsets[i]}`;
    let group = this.#bindGroups.get(key);
    if (!group) {
      if (this.#bindGroups.size > 8192) this.#bindGroups.clear();
      group = this.makeBindGroup(work, slots, ring);
      this.#bindGroups.set(key, group);
    }
    return group;
  }

  makeBindGroup(work: Work, slots: readonly Slot[], uniforms: GPUBuffer): GPUBindGroup {
    const { kernel, offsets, label } = work;
    const written = slots.filter((_, i) => kernel.storage[i].kind === "storage");
    if (written.some((slot) => slots.indexOf(slot) !== slots.lastIndexOf(slot))) {
      throw new KilnError(`${label}: a tensor that it writes shares memory with another of its tensors`);
    }
    const entries: GPUBindGroupEntry[] = kernel.storage.map(({ index }, i) => ({
      binding: index,
      resource: { buffer: slots[i].buffer, offset: offsets[i] },
    }));
    if (kernel.hasParams)
      entries.push({ binding: 0, resource: { buffer: uniforms, size: kernel.params.words * 4 } });
    const group = this.gpu.createBindGroup({ layout: kernel.layout, entries });
    this.#check();
    return group;
  }

  release(storage: Storage): void {
    if (storage.handle) this.pool.give(storage.handle as Slot);
  }

  async sync(): Promise<void> {
    this.recorder.flush();
    await this.settled(this.gpu.queue.onSubmittedWorkDone());
    await this.recorder.verified;
    this.#check();
  }

  /** Awaits a promise of the adapter's in the way that suits it. */
  settled<T>(promise: Promise<T>): Promise<T> {
    return this.profile.class === "cpu" ? awaitIdle(promise) : promise;
  }

  async fits(sizes: readonly number[]): Promise<boolean> {
    // A tensor's own buffer would be used before its error is known, and take what is submitted with it down.
    for (const kind of ["out-of-memory", "validation"] as const) this.gpu.pushErrorScope(kind);
    const buffers = sizes.map((size) => {
      return this.gpu.createBuffer({ size: sizeClass(size), usage: GPUBufferUsage.STORAGE });
    });
    const errors = await Promise.all([this.gpu.popErrorScope(), this.gpu.popErrorScope()]);
    for (const buffer of buffers) buffer.destroy();
    return errors.every((error) => error === null);
  }

  /** Destroys idle buffers. Others may work meanwhile: what is submitted keeps its buffers. */
  async trim(): Promise<void> {
    await this.sync();
    this.recorder.flush();
    this.#bindGroups.clear();
    this.pool.trim();
  }

  /** Frees the device; tensors on it are gone. */
  close(): void {
    this.gpu.destroy();
  }
}

/** Why nothing more can be computed; drivers often say nothing. */
export function lostError(reason: string, message: string): KilnError {
  const why =
    reason === "destroyed"
      ? "this device was closed; open another"
      : `the GPU device was lost: ${message.trim() || "the driver gave no reason"}; its memory may have run out, or a kernel taken too long: start again, with a smaller batch if it happens again`;
  return new KilnError(why, { code: "device_lost" });
}

/** The first line says what is wrong; the rest, mostly source text, is in the cause. */
function webgpuError(error: GPUError): KilnError {
  const [line] = error.message.split("\n", 1);
  return new KilnError(`WebGPU: ${line}`, { code: "webgpu_error", cause: error });
}

function paddedCopy(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(Math.ceil(bytes.byteLength / 4) * 4);
  out.set(bytes);
  return out;
}

/** Opens an adapter and makes it the device of new tensors. */
export async function openWebGpu(read: SourceReader, options: AdapterOptions = {}): Promise<WebGpuDevice> {
  const { adapter, description } = await openAdapter(options);
  const wanted = ["shader-f16", "subgroups", "timestamp-query", matrixFeature] as GPUFeatureName[];
  const requiredFeatures = wanted.filter((f) => adapter.features.has(f));
  const requiredLimits: Record<string, number> = {};
  for (const name of limitNames) requiredLimits[name] = adapter.limits[name];
  const gpu = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  const profile = profileOf(gpu, description);
  const tuner = await openTuner(profile, description);
  const opened = new WebGpuDevice(gpu, description, profile, read, tuner);
  opened.matrixShapes = matrixShapes(adapter);
  if (typeof process !== "undefined" && process.versions?.node)
    collectWith((await import("../platform/garbage_node.ts")).nodeCollector());
  setDevice(opened);
  return opened;
}

/** The adapter's own limits are asked for: the defaults (128 MiB a binding) stop real models. */
const limitNames = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
] as const;

function profileOf(gpu: GPUDevice, d: AdapterDescription): DeviceProfile {
  const fixed = gpu.features.has("subgroups" as GPUFeatureName) && d.subgroupMinSize === d.subgroupMaxSize;
  return {
    class: d.software ? "cpu" : "gpu",
    name: d.description || d.device || d.driver,
    f16: gpu.features.has("shader-f16"),
    subgroupSize: fixed ? d.subgroupMinSize : 0,
    maxWorkgroupSize: gpu.limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupMemory: gpu.limits.maxComputeWorkgroupStorageSize,
    maxBindingBytes: gpu.limits.maxStorageBufferBindingSize,
    maxStorageBuffers: gpu.limits.maxStorageBuffersPerShaderStage,
    maxGridExtent: gpu.limits.maxComputeWorkgroupsPerDimension,
    matrix: null,
  };
}
