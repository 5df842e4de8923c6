import { device } from "../../core/device.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import type { Model } from "../../models/model.ts";

/** What `--speed` reports. */
export interface Speed {
  parameters: number;
  /** Without the first batch, which compiles; null where there is no other. */
  tokens_per_second: number | null;
  /** Milliseconds of one text alone, the first of the data: the median of five, after one that compiles. */
  latency_ms: number;
  /** The most bytes that buffers took on the device. */
  peak_bytes: number;
}

/** Times the batches of an evaluation. */
export class SpeedMeter {
  readonly #batches: { tokens: number; ms: number }[] = [];
  #alone: () => Promise<unknown> = async () => {};

  /** Adds a batch; `alone` does the work of its first text once more. */
  add(tokens: number, ms: number, alone: () => Promise<unknown>): void {
    if (this.#batches.length === 0) this.#alone = alone;
    this.#batches.push({ tokens, ms });
  }

  async value(model: Model<never>): Promise<Speed> {
    const batches = this.#batches.slice(1);
    const sum = (name: "tokens" | "ms") => batches.reduce((total, batch) => total + batch[name], 0);
    const times: number[] = [];
    for (let i = 0; i < 6; i++) {
      const begin = performance.now();
      await this.#alone();
      times.push(performance.now() - begin);
    }
    return {
      parameters: model.parameters().reduce((total, { size }) => total + size, 0),
      tokens_per_second: batches.length === 0 ? null : sum("tokens") / (sum("ms") / 1000),
      latency_ms: times.slice(1).sort((a, b) => a - b)[2],
      peak_bytes: (device() as WebGpuDevice).pool.bytesReserved,
    };
  }
}
