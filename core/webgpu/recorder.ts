import type { KilnError } from "../errors.ts";
import type { Dispatch, Stamp } from "./call.ts";
import type { Slot } from "./pool.ts";

/** Uniform slots are 256 bytes: WebGPU's alignment of dynamic offsets on every adapter. */
export const uniformSlot = 256;
const ringSlots = 4096;
/** Enough work for one submit; more would only delay the device's start. */
const flushEvery = 400;

/**
 * The open command encoder: dispatches pile up in one compute pass and are submitted when something is read, when
 * enough has piled up, or on `flush`. Work runs in recorded order.
 */
export class Recorder {
  /** Counts submits; slots store it, so that uploads know which work is not yet submitted. */
  epoch = 0;
  submits = 0;
  dispatches = 0;
  /** Resolves when it is known whether the last submit was taken, to the error that refused it if not. */
  verified: Promise<KilnError | null> = Promise.resolve(null);
  /** While set, each dispatch runs in a pass of its own and is timed. */
  stamp: Stamp | null = null;
  readonly ring: GPUBuffer;
  /** Uniform values of the open encoder, written to the ring just before the submit. */
  readonly staging: Uint8Array<ArrayBuffer>;
  #used = 0;
  #pending = 0;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  readonly #device: GPUDevice;
  readonly #refused: (epoch: number, error: GPUError) => KilnError;

  /** `refused` is told when WebGPU drops the work of an epoch. */
  constructor(device: GPUDevice, refused: (epoch: number, error: GPUError) => KilnError) {
    this.#device = device;
    this.#refused = refused;
    this.staging = new Uint8Array(ringSlots * uniformSlot);
    this.ring = device.createBuffer({
      size: this.staging.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
  }

  /** Room for `words` 4-byte uniform values in the open encoder: the byte offset in the ring. */
  uniforms(words: number): number {
    const slots = Math.ceil((words * 4) / uniformSlot);
    if (this.#used + slots > ringSlots) this.flush();
    const at = this.#used * uniformSlot;
    this.#used += slots;
    return at;
  }

  /** The open compute pass; a new one for the dispatch where passes are stamped. */
  compute(dispatch: Dispatch | null): GPUComputePassEncoder {
    this.#encoder ??= this.#device.createCommandEncoder();
    if (this.stamp && dispatch) {
      this.#endPass();
      this.#pass = this.#encoder.beginComputePass({ timestampWrites: this.stamp(dispatch) });
    }
    this.#pass ??= this.#encoder.beginComputePass();
    return this.#pass;
  }

  /** Counts a dispatch just recorded; submits when enough have piled up. */
  recorded(count = 1): void {
    this.dispatches += count;
    this.#pending += count;
    if (this.#pending >= flushEvery) this.flush();
  }

  /** Notes that the open encoder uses a slot; throws where its value was lost. */
  touch(slot: Slot): void {
    if (slot.lost) throw slot.lost;
    slot.lastEpoch = this.epoch;
  }

  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, bytes: number): void {
    this.#endPass();
    this.#encoder ??= this.#device.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(from, fromOffset, to, toOffset, bytes);
  }

  flush(): void {
    this.#endPass();
    if (this.#used > 0) {
      this.#device.queue.writeBuffer(this.ring, 0, this.staging, 0, this.#used * uniformSlot);
      this.#used = 0;
    }
    if (!this.#encoder) return;
    // One invalid command drops the whole buffer: without a scope of its own nobody could say which work was lost.
    this.#device.pushErrorScope("validation");
    this.#device.queue.submit([this.#encoder.finish()]);
    this.#verify(this.epoch, this.#device.popErrorScope());
    this.#encoder = null;
    this.#pending = 0;
    this.epoch++;
    this.submits++;
  }

  #verify(epoch: number, popped: Promise<GPUError | null>): void {
    const before = this.verified;
    this.verified = popped.then(
      async (error) => {
        await before;
        return error && this.#refused(epoch, error);
      },
      () => null, // the device is lost, which reads say by themselves
    );
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = null;
  }
}
