import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import type { PeerWork } from "../peers.ts";

/** One thing to time: the least that it can cost, and how to run it. */
export interface Row {
  name: string;
  /** Multiplications and additions of one unit of work. */
  flops: number;
  /** Bytes that must be read and written, everything once. */
  bytes: number;
  /** Which of the two the row's figure is given in. */
  unit: "GFLOP/s" | "GB/s";
  /** Tokens of one unit of work, where that is what a user counts. */
  tokens?: number;
  peer?: PeerWork;
  /** What its products are computed of; f32 when absent. */
  precision?: Precision;
  /** A kernel, not a step of many: on a GPU its time is taken by timestamp queries. */
  kernel?: boolean;
  /** Measured from `prepare` to the end of the first run, and never again. */
  once?: boolean;
  /** Makes the data. `run` does so many units of work, one after the other, and waits for the device. */
  prepare: (device: WebGpuDevice) => Prepared | Promise<Prepared>;
}

/** A row of the GPU table: its task is the ruler's, its role is what the bars call it. */
export interface GpuRow extends Row {
  task: string;
  precision: Precision;
  /** What it is in the table of bars, whatever its size, e.g. `gemm largest f16`. */
  role: string;
}

export type Precision = "f32" | "f16";
export const precisions = ["f32", "f16"] as const;
export const bytesOf = { f32: 4, f16: 2 };

export interface Prepared {
  run: (times: number) => Promise<void>;
  dispose: () => void;
}
