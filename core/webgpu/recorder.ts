import type { Dispatch, Stamp } from "./dispatch.ts";
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
  /** Counts submits; slots remember it so that uploads know what is still open. */
  epoch = 0;
  submits = 0;
  dispatches = 0;
  /** While set, each dispatch runs in a pass of its own and is timed. */
  stamp: Stamp | null = null;
  readonly ring: GPUBuffer;
  /** Uniform values of the open encoder, written to the ring just before the submit. */
  readonly staging: Uint8Array<ArrayBuffer>;
  private used = 0;
  private pending = 0;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private readonly device: GPUDevice;

  constructor(device: GPUDevice) {
    this.device = device;
    this.staging = new Uint8Array(ringSlots * uniformSlot);
    this.ring = device.createBuffer({
      size: this.staging.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
  }

  /** Room for `words` 4-byte uniform values in the open encoder: the byte offset in the ring. */
  uniforms(words: number): number {
    const slots = Math.ceil((words * 4) / uniformSlot);
    if (this.used + slots > ringSlots) this.flush();
    const at = this.used * uniformSlot;
    this.used += slots;
    return at;
  }

  /** The open compute pass; a new one for the dispatch where passes are stamped. */
  compute(dispatch: Dispatch | null): GPUComputePassEncoder {
    this.encoder ??= this.device.createCommandEncoder();
    if (this.stamp && dispatch) {
      this.endPass();
      this.pass = this.encoder.beginComputePass({ timestampWrites: this.stamp(dispatch) });
    }
    this.pass ??= this.encoder.beginComputePass();
    return this.pass;
  }

  /** Counts a dispatch just recorded; submits when enough have piled up. */
  recorded(count = 1): void {
    this.dispatches += count;
    this.pending += count;
    if (this.pending >= flushEvery) this.flush();
  }

  touch(slot: Slot): void {
    slot.lastEpoch = this.epoch;
  }

  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, bytes: number): void {
    this.endPass();
    this.encoder ??= this.device.createCommandEncoder();
    this.encoder.copyBufferToBuffer(from, fromOffset, to, toOffset, bytes);
  }

  flush(): void {
    this.endPass();
    if (this.used > 0) {
      this.device.queue.writeBuffer(this.ring, 0, this.staging, 0, this.used * uniformSlot);
      this.used = 0;
    }
    if (!this.encoder) return;
    this.device.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.pending = 0;
    this.epoch++;
    this.submits++;
  }

  private endPass(): void {
    this.pass?.end();
    this.pass = null;
  }
}
