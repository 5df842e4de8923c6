import type { BenchResult, RunHead } from "../report.ts";
import { fullSizes, quickSizes } from "../rows/sizes.ts";
import type { TorchLine } from "./torch.ts";

/** A result of a row of the GPU table. */
export interface GpuResult extends BenchResult {
  task: string;
  role: string;
  precision: "f32" | "f16";
  /** Its time is one of timestamp queries, where the adapter has them. */
  kernel?: boolean;
}

/** One process's run over the rows. */
export interface GpuRun {
  head: RunHead;
  results: GpuResult[];
  /** Milliseconds of a first step in a fresh process: with cold caches of compiled shaders perhaps, then with warm ones. */
  first_step?: { cold_ms: number; warm_ms: number };
}

/** A goal of the project for GPUs, and the result. */
export interface Bar {
  task: string;
  /** In words. */
  wanted: string;
  /** In words; null where something it needs was not measured. */
  found: string | null;
  met: boolean | null;
}

/** Looks up the figures of a run by their roles. */
class Figures {
  readonly #run: GpuRun;
  readonly #torch: readonly TorchLine[];

  constructor(run: GpuRun, torch: readonly TorchLine[]) {
    this.#run = run;
    this.#torch = torch;
  }

  result(role: string): GpuResult | null {
    return this.#run.results.find((r) => r.role === role && r.ms !== undefined) ?? null;
  }

  /** TFLOP/s. */
  tflops(role: string): number | null {
    const found = this.result(role);
    return found ? found.gflops! / 1e3 : null;
  }

  /** Share of the copy's bandwidth. */
  share(role: string): number | null {
    const found = this.result(role);
    return found ? found.gb_per_s! / this.#run.head.roofline.gb_per_s : null;
  }

  /** Rate of the backward pass alone: forward and backward, less forward; five of the seven products. */
  backwardTflops(precision: string): number | null {
    const [forward, both] = [`attention forward ${precision}`, `attention both ${precision}`].map((role) =>
      this.result(role),
    );
    if (!forward || !both) return null;
    const time = (r: GpuResult) => r.device_ms ?? r.ms!;
    const flops = (both.gflops! * time(both) * 5) / 7;
    return flops / (time(both) - time(forward)) / 1e3;
  }

  /** How many times faster than a variant of PyTorch. */
  speedup(role: string, variant: string): number | null {
    const found = this.result(role);
    const line = found && this.#torch.find((l) => l.task === found.task && l.variant === variant);
    return found && line ? line.ms / (found.device_ms ?? found.ms!) : null;
  }
}

/** A bar for a number that must be at least `least`. */
function atLeast(task: string, wanted: string, value: number | null, least: number, show: string): Bar {
  if (value === null) return { task, wanted, found: null, met: null };
  const digits = show === "%" ? `${(100 * value).toFixed(0)} %` : `${value.toPrecision(3)} ${show}`;
  return { task, wanted, found: digits, met: value >= least };
}

/** `a / b`, null where either is missing. */
function ratio(a: number | null, b: number | null): number | null {
  return a === null || b === null ? null : a / b;
}

function kernelBars(f: Figures): Bar[] {
  const precisions = ["f32", "f16"];
  const shapes = ["gemm transformer", "gemm transformer A^T B", "gemm transformer A B^T"];
  return [
    atLeast("GEMM f32, largest", "46 TFLOP/s", f.tflops("gemm largest f32"), 46, "TFLOP/s"),
    atLeast("GEMM f32, largest", "0.9 of cuBLAS f32", f.speedup("gemm largest f32", "f32"), 0.9, "x"),
    atLeast("GEMM f16, largest", "320 TFLOP/s", f.tflops("gemm largest f16"), 320, "TFLOP/s"),
    ...precisions.flatMap((p) =>
      shapes.map((role) => {
        const share = ratio(f.tflops(`${role} ${p}`), f.tflops(`gemm largest ${p}`));
        return atLeast(`${role.replace("gemm", "GEMM")} ${p}`, "80 % of the largest", share, 0.8, "%");
      }),
    ),
    // A sum of a tensor with itself reads only one tensor from memory, which is too easy.
    ...["softmax", "layernorm", "gelu", "add_two"].map((name) =>
      atLeast(`${name}, large`, "80 % of the copy", f.share(`rows ${name} large`), 0.8, "%"),
    ),
    ...precisions.flatMap((p) => {
      const gemm = f.tflops(`gemm largest ${p}`);
      const forward = ratio(f.tflops(`attention forward ${p}`), gemm);
      return [
        atLeast(`attention forward ${p}`, "40 % of the GEMM", forward, 0.4, "%"),
        atLeast(`attention backward ${p}`, "30 % of the GEMM", ratio(f.backwardTflops(p), gemm), 0.3, "%"),
      ];
    }),
  ];
}

function modelBars(f: Figures, run: GpuRun, batches: readonly number[]): Bar[] {
  const precisions = ["f32", "f16"];
  const faster = (role: string, than: string, times: number) =>
    atLeast(role, `${times} x ${than}`, f.speedup(role, than), times, "x");
  const first = run.first_step?.warm_ms ?? null;
  return [
    // For the f32 step only the first bar compares like with like: PyTorch's other two multiply with fewer bits.
    ...precisions.flatMap((p) => [
      faster(`train gpt2 ${p}`, "f32 eager", 1),
      faster(`train gpt2 ${p}`, "tf32 eager", 1),
      faster(`train gpt2 ${p}`, "bf16 amp compiled", 0.5),
    ]),
    ...precisions.map((p) => faster(`train tinyllm ${p}`, "bf16 amp compiled", 1)),
    ...batches.flatMap((batch) =>
      precisions.map((p) => faster(`decode tinyllm ${p} ${batch}`, `transformers generate ${p}`, 5)),
    ),
    {
      task: "first step of TinyLLM, warm cache",
      wanted: "under 2 s",
      found: first === null ? null : `${(first / 1e3).toFixed(2)} s`,
      met: first === null ? null : first < 2000,
    },
  ];
}

/** Every bar of the project's GPU table; on a software adapter none is called met or missed. */
export function barsOf(run: GpuRun, torch: readonly TorchLine[]): Bar[] {
  const { batches } = (run.head.quick ? quickSizes : fullSizes).decode;
  // The first and the last of three batches decide.
  const ends = [batches[0], batches.at(-1)!];
  const figures = new Figures(run, torch);
  const bars = [...kernelBars(figures), ...modelBars(figures, run, ends)];
  return run.head.software ? bars.map((bar) => ({ ...bar, met: null })) : bars;
}
