import type { Storage } from "../device.ts";
import { KilnError } from "../errors.ts";

/** One GPUBuffer that tensors take turns in. WebGPU forbids one buffer bound for reading and writing at once. */
export interface Slot {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  /** The recorder's epoch in which a dispatch last used it: an upload in the same epoch must flush first. */
  lastEpoch: number;
  /** Set when work on this slot was refused: its contents are wrong, and using it throws this error. */
  lost: KilnError | null;
}

/**
 * A pool of buffers by size class (four per power of two, so at most a quarter is wasted). Released slots are
 * reused at once: work runs in recorded order. Buffers are destroyed only by `trim`, after the device is idle.
 */
export class Pool {
  bytesInUse = 0;
  #bytesIdle = 0;
  /** Every slot whose buffer exists. */
  readonly slots = new Set<Slot>();
  readonly #idle = new Map<number, Slot[]>();
  readonly #device: GPUDevice;
  readonly #check: () => void;
  #nextId = 0;

  /** `check` throws what the device has reported since. */
  constructor(device: GPUDevice, check: () => void) {
    this.#device = device;
    this.#check = check;
  }

  take(bytes: number): Slot {
    const size = sizeClass(bytes);
    const free = this.#idle.get(size)?.pop();
    if (free) {
      this.bytesInUse += size;
      this.#bytesIdle -= size;
      free.lost = null;
      return free;
    }
    const limit = Math.min(
      this.#device.limits.maxBufferSize,
      this.#device.limits.maxStorageBufferBindingSize,
    );
    if (size > limit) {
      const mib = (n: number) => `${(n / 2 ** 20).toFixed(0)} MiB`;
      throw new KilnError(
        `a tensor of ${mib(bytes)} is over this adapter's limit of ${mib(limit)} a buffer; use a smaller batch, context or model`,
        { code: "buffer_too_large" },
      );
    }
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = this.#device.createBuffer({ size, usage });
    this.#check();
    const slot = { id: this.#nextId++, buffer, bytes: size, lastEpoch: -1, lost: null };
    this.slots.add(slot);
    this.bytesInUse += size;
    return slot;
  }

  give(slot: Slot): void {
    this.bytesInUse -= slot.bytes;
    this.#bytesIdle += slot.bytes;
    const list = this.#idle.get(slot.bytes);
    if (list) list.push(slot);
    else this.#idle.set(slot.bytes, [slot]);
  }

  /** Bytes of buffers that exist on the device, used or waiting to be. */
  get bytesReserved(): number {
    return this.bytesInUse + this.#bytesIdle;
  }

  /** Destroys the idle buffers; call it only when nothing that uses them is recorded and not submitted. */
  trim(): void {
    for (const slot of [...this.#idle.values()].flat()) {
      slot.buffer.destroy();
      this.slots.delete(slot);
    }
    this.#idle.clear();
    this.#bytesIdle = 0;
  }
}

/** Smallest of {1, 1.25, 1.5, 1.75} x 2^n that holds `bytes` plus 256 bytes of padding for vector loads. */
export function sizeClass(bytes: number): number {
  const need = Math.max(bytes + 256, 512);
  const step = 2 ** (Math.floor(Math.log2(need)) - 2);
  return Math.ceil(need / step) * step;
}

/** The buffer of a storage. */
export function slotOf(storage: Storage): Slot {
  if (storage.freed)
    throw new KilnError(
      "a tensor was used after its scope freed it; return it from the scope or persist() it",
    );
  if (!storage.handle) throw new KilnError("a tensor of a compiled step was used outside of it");
  return storage.handle as Slot;
}
