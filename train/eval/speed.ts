import { device } from "../../core/device.ts";
import type { Model } from "../../models/model.ts";

/** What `--speed` reports. */
export interface Speed {
  parameters: number;
  tokens_per_second: number;
  /** Milliseconds of a pass: the median of all but the first of each shape, which compiles. */
  pass_ms: number;
  /** The most bytes of tensors on the device after any pass. */
  peak_bytes: number;
}

/** Times the passes of an evaluation. */
export class SpeedMeter {
  readonly #passes: { tokens: number; ms: number }[] = [];
  #peak = 0;

  add(tokens: number, ms: number): void {
    this.#passes.push({ tokens, ms });
    this.#peak = Math.max(this.#peak, device().bytesInUse);
  }

  value(model: Model<never>): Speed {
    const passes = this.#passes.length > 1 ? this.#passes.slice(1) : this.#passes;
    const sum = (name: "tokens" | "ms") => passes.reduce((total, pass) => total + pass[name], 0);
    const sorted = passes.map(({ ms }) => ms).sort((a, b) => a - b);
    return {
      parameters: model.parameters().reduce((total, { size }) => total + size, 0),
      tokens_per_second: sum("tokens") / (sum("ms") / 1000),
      pass_ms: sorted[Math.floor(sorted.length / 2)],
      peak_bytes: this.#peak,
    };
  }
}
