import type { Device } from "../device.ts";
import type { LowerEnv, TracedCall, TraceRewrite, Work } from "./call.ts";
import type { Pool, Slot } from "./pool.ts";
import type { Recorder } from "./recorder.ts";

/** What compiled steps and the tuner need of a WebGPU device. */
export interface WebGpuHost extends Device, LowerEnv {
  readonly profile: Device["profile"];
  readonly gpu: GPUDevice;
  readonly pool: Pool;
  readonly recorder: Recorder;
  readonly rewrites: readonly TraceRewrite[];
  /** The calls of the step that is being traced, or null. */
  trace: TracedCall[] | null;
  allocate: Device["allocate"];
  makeBindGroup(work: Work, slots: readonly Slot[], uniforms: GPUBuffer): GPUBindGroup;
  showDispatch(verb: "dispatch" | "plan", work: Work): void;
  /** Lowers every call again from now on: what choices depend on has changed. */
  forgetLowered(): void;
}
