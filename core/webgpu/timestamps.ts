import { KilnError } from "../errors.ts";
import type { Dispatch } from "./call.ts";
import type { WebGpuDevice } from "./device.ts";

/** A dispatch and when it ran, in nanoseconds after the first one began. */
export interface TimedDispatch extends Dispatch {
  start: number;
  end: number;
}

/** Each dispatch takes two queries; WebGPU allows 4096 in a set. */
const dispatchesPerSet = 2048;

/** @throws KilnError `no_timestamps` where the adapter has no timestamp queries */
export function checkTimestamps({ gpu }: WebGpuDevice): void {
  if (!gpu.features.has("timestamp-query")) {
    throw new KilnError(
      "this adapter has no timestamp queries, so its kernels cannot be timed one by one; kiln bench times whole steps",
      { code: "no_timestamps" },
    );
  }
}

/**
 * Times every dispatch that `work` records, in order. Each runs in a compute pass of its own, which costs time between
 * dispatches but changes no result.
 *
 * @throws KilnError `no_timestamps` where the adapter has no timestamp queries
 */
export async function timeDispatches(
  device: WebGpuDevice,
  work: () => Promise<void>,
): Promise<TimedDispatch[]> {
  const { gpu, recorder } = device;
  checkTimestamps(device);
  const dispatches: Dispatch[] = [];
  const sets: GPUQuerySet[] = [];
  recorder.flush();
  recorder.stamp = (dispatch) => {
    const query = ((dispatches.push(dispatch) - 1) % dispatchesPerSet) * 2;
    if (query === 0) sets.push(gpu.createQuerySet({ type: "timestamp", count: dispatchesPerSet * 2 }));
    return {
      querySet: sets.at(-1)!,
      beginningOfPassWriteIndex: query,
      endOfPassWriteIndex: query + 1,
    };
  };
  try {
    await work();
    await device.sync();
  } finally {
    recorder.stamp = null;
  }
  const spans = oneAfterAnother(await resolve(gpu, sets, dispatches.length));
  return dispatches.map((dispatch, i) => ({ ...dispatch, ...spans[i] }));
}

/**
 * When each pass ran, from the stamps of its begin and end, in nanoseconds after the first begin. A begin may be stamped as
 * soon as the GPU reads the command, while the pass before it still runs: Vulkan's TOP_OF_PIPE, which is the stage that a
 * version of Dawn may ask for. A pass is therefore taken to begin no sooner than the one before it has ended.
 */
export function oneAfterAnother(stamps: BigUint64Array): { start: number; end: number }[] {
  const spans: { start: number; end: number }[] = [];
  let ended = 0;
  for (let i = 0; i < stamps.length; i += 2) {
    const start = Math.max(ended, Number(stamps[i] - stamps[0]));
    ended = Math.max(start, Number(stamps[i + 1] - stamps[0]));
    spans.push({ start, end: ended });
  }
  return spans;
}

/** Begin and end of each of `count` passes, in nanoseconds; frees the sets. */
async function resolve(gpu: GPUDevice, sets: readonly GPUQuerySet[], count: number): Promise<BigUint64Array> {
  if (count === 0) return new BigUint64Array();
  const size = count * 16;
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const resolved = gpu.createBuffer({ size, usage: QUERY_RESOLVE | COPY_SRC });
  const staging = gpu.createBuffer({ size, usage: MAP_READ | COPY_DST });
  const encoder = gpu.createCommandEncoder();
  sets.forEach((set, i) => {
    const first = i * dispatchesPerSet;
    encoder.resolveQuerySet(set, 0, Math.min(count - first, dispatchesPerSet) * 2, resolved, first * 16);
  });
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const times = new BigUint64Array(staging.getMappedRange().slice(0));
  for (const made of [...sets, resolved, staging]) made.destroy();
  return times;
}
