import { type Device, Storage } from "./device.ts";
import type { DType, HostArray } from "./dtype.ts";
import { KilnError } from "./errors.ts";
import { type AnyOp, type DeviceProfile, mutatedInputs, type RefTensor } from "./op.ts";
import { numel } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/**
 * The oracle: every value is a float64, every op runs its `reference`. Whole models train on it, slowly and
 * exactly; gradients are checked on it by finite differences.
 */
export class ReferenceDevice implements Device {
  readonly kind = "reference";
  bytesInUse = 0;
  readonly profile: DeviceProfile = {
    class: "cpu",
    name: "reference",
    f16: true,
    subgroupSize: 0,
    maxWorkgroupSize: 1,
    maxWorkgroupMemory: 0,
    maxBindingBytes: Number.MAX_SAFE_INTEGER,
    maxStorageBuffers: Number.MAX_SAFE_INTEGER,
    maxGridExtent: Number.MAX_SAFE_INTEGER,
    matrix: null,
  };

  allocate(dtype: DType, length: number): Storage {
    let memory: Float64Array;
    try {
      memory = new Float64Array(length);
    } catch (cause) {
      throw new KilnError(`the reference device has no memory for ${length} elements`, { cause });
    }
    this.bytesInUse += length * 8;
    return new Storage(this, dtype, length, memory);
  }

  upload(values: ArrayLike<number>, dtype: DType): Storage {
    const storage = this.allocate(dtype, values.length);
    this.write(storage, values, 0);
    return storage;
  }

  write(storage: Storage, values: ArrayLike<number>, offset: number): void {
    cells(storage).set(
      storage.dtype === "bool" ? Array.from(values, (v) => Number(v !== 0)) : values,
      offset,
    );
  }

  async read(storage: Storage, offset: number, length: number): Promise<HostArray> {
    const values = cells(storage).slice(offset, offset + length);
    if (storage.dtype === "i32") return Int32Array.from(values);
    return storage.dtype === "u32" || storage.dtype === "bool" ? Uint32Array.from(values) : values;
  }

  valuesNow(t: Tensor): Float64Array {
    return gather(t).data;
  }

  run(op: AnyOp, inputs: readonly Tensor[], attrs: unknown, outputs: readonly Tensor[]): void {
    const given = inputs.map(gather);
    const made = outputs.map((t): RefTensor => ({ shape: t.shape, dtype: t.dtype, data: cells(t.storage) }));
    op.reference(given, attrs as never, made);
    for (const i of mutatedInputs(op, inputs.length)) scatter(given[i].data, inputs[i]);
  }

  release(storage: Storage): void {
    this.bytesInUse -= storage.length * 8;
  }

  async sync(): Promise<void> {}
}

function cells(storage: Storage): Float64Array {
  if (!(storage.handle instanceof Float64Array))
    throw new KilnError("reference device: a tensor of another device");
  return storage.handle;
}

/** The values of a view in row-major order: the memory itself where it already is so. */
function gather(t: Tensor): RefTensor {
  const source = cells(t.storage);
  if (t.contiguous)
    return { shape: t.shape, dtype: t.dtype, data: source.subarray(t.offset, t.offset + t.size) };
  const data = new Float64Array(t.size);
  forEachCell(t, (cell, i) => {
    data[i] = source[cell];
  });
  return { shape: t.shape, dtype: t.dtype, data };
}

function scatter(values: Float64Array, t: Tensor): void {
  if (t.contiguous) return;
  const target = cells(t.storage);
  forEachCell(t, (cell, i) => {
    target[cell] = values[i];
  });
}

function forEachCell(t: Tensor, visit: (cell: number, i: number) => void): void {
  const { shape, strides } = t;
  const index = new Array<number>(shape.length).fill(0);
  let cell = t.offset;
  const total = numel(shape);
  for (let i = 0; i < total; i++) {
    visit(cell, i);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      cell += strides[axis];
      if (++index[axis] < shape[axis]) break;
      cell -= index[axis] * strides[axis];
      index[axis] = 0;
    }
  }
}
