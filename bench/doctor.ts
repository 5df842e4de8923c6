import { grads } from "../core/autograd.ts";
import { type Device, setDevice, withDevice } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import {
  type AdapterDescription,
  type AdapterOptions,
  describe,
  openAdapter,
} from "../core/platform/adapter.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { dispose, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import type { WebGpuDevice } from "../core/webgpu/device.ts";
import { matrixConfigs } from "../core/webgpu/matrix_units.ts";
import { add, attention, matmul, openDevice, rmsNorm, softmax } from "../kernels/index.ts";
import { describeMatrixUnits } from "../kernels/matrix_units/trials.ts";
import { copyBandwidth } from "./roofline.ts";

/** One op on the adapter against the float64 reference. */
export interface DoctorCheck {
  name: string;
  /** Largest difference over the result and its derivatives, relative to values above 1. */
  error: number;
  tolerance: number;
  ok: boolean;
}

/** A few speeds; each is the best of some tries. */
export interface DoctorSpeed {
  /** f32 matrix product, square. */
  matmul_gflops: number;
  matmul_size: number;
  /** Copy of a large buffer, bytes read plus bytes written. */
  copy_gb_per_s: number;
  /** One small op in a long chain. */
  dispatch_us: number;
  /** From an op's call to its value on the host. */
  readback_us: number;
  /** A small shader that no cache knows. */
  compile_ms: number;
}

export interface DoctorReport {
  platform: string;
  node: string;
  /** Why there is no adapter and what to install; the fields below are then absent. */
  problem?: string;
  adapter?: AdapterDescription;
  features?: string[];
  limits?: Record<string, number>;
  /** Shapes that the adapter's matrix units take, in words; empty where none are offered. */
  matrix_configurations?: string[];
  /** What was found out about the kernels for them, in words. */
  matrix_kernels?: string;
  checks?: DoctorCheck[];
  speed?: DoctorSpeed;
}

/**
 * Examines this machine's adapter: what it offers, whether a few ops come out right and how fast it is. `ok` is false
 * without an adapter and when a check fails. Never throws for a missing or broken adapter: the report says it.
 */
export async function doctor(options: AdapterOptions = {}): Promise<{ ok: boolean; report: DoctorReport }> {
  const report: DoctorReport = {
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
  };
  try {
    const { adapter, description } = await openAdapter(options);
    report.adapter = description;
    report.features = [...adapter.features].sort();
    report.limits = limitsOf(adapter);
    report.matrix_configurations = matrixConfigurations(adapter.info);
    const device = await openDevice(options);
    report.matrix_kernels = describeMatrixUnits(device.profile.matrix);
    try {
      report.checks = await check(device);
      report.speed = await measure(device);
    } finally {
      setDevice(null);
      device.close();
    }
  } catch (error) {
    if (process.env.DEBUG === "1" && !(error instanceof KilnError)) throw error;
    report.problem = error instanceof Error ? error.message : String(error);
  }
  return { ok: !report.problem && (report.checks ?? []).every((c) => c.ok), report };
}

/** The report for people. */
export function renderDoctor(report: DoctorReport): string {
  const lines = [`kiln on ${report.platform}, Node ${report.node}`];
  const { adapter, checks = [], speed } = report;
  if (adapter) {
    lines.push(
      describe(adapter),
      `vendor ${adapter.vendor || "-"}, architecture ${adapter.architecture || "-"}, device ${adapter.device || "-"}, driver ${adapter.driver}`,
      `toggles: ${adapter.toggles.join(" ") || "none"}`,
      `features: ${report.features?.join(" ") || "none"}`,
      "limits:",
      ...Object.entries(report.limits ?? {}).map(([name, value]) => `  ${name.padEnd(36)} ${amount(value)}`),
      `matrix configurations: ${report.matrix_configurations?.join(", ") || "none offered"}`,
      `matrix kernels: ${report.matrix_kernels ?? "not tried"}`,
    );
  }
  if (checks.length > 0) lines.push("correctness, against float64 on the processor:");
  for (const { name, error, tolerance, ok } of checks) {
    const numbers = `error ${error.toExponential(1)}, allowed ${tolerance.toExponential(0)}`;
    lines.push(`  ${name.padEnd(22)} ${numbers}  ${ok ? "ok" : "WRONG"}`);
  }
  if (speed) lines.push(`speed${adapter?.software ? " (software adapter)" : ""}:`, ...speedLines(speed));
  lines.push(report.problem ? `problem: ${report.problem}` : verdict(checks));
  return lines.join("\n");
}

function verdict(checks: readonly DoctorCheck[]): string {
  const wrong = checks.filter((c) => !c.ok).map((c) => c.name);
  return wrong.length === 0
    ? "all well"
    : `WRONG RESULTS in ${wrong.join(", ")}: update the graphics driver, or run with KILN_ADAPTER=software`;
}

function speedLines(speed: DoctorSpeed): string[] {
  return [
    `  matmul ${speed.matmul_size}^3`.padEnd(25) + `${speed.matmul_gflops.toFixed(1)} GFLOP/s`,
    "  copy".padEnd(25) + `${speed.copy_gb_per_s.toFixed(1)} GB/s`,
    "  dispatch".padEnd(25) + `${speed.dispatch_us.toFixed(1)} us`,
    "  readback".padEnd(25) + `${speed.readback_us.toFixed(0)} us`,
    "  compile a shader".padEnd(25) + `${speed.compile_ms.toFixed(1)} ms`,
  ];
}

function amount(value: number): string {
  return value >= 2 ** 20 && value % 1024 === 0
    ? `${value} (${(value / 2 ** 20).toFixed(0)} Mi)`
    : String(value);
}

/** Limits live on the prototype, so a spread or JSON sees none of them. */
function limitsOf(adapter: GPUAdapter): Record<string, number> {
  const found: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") found[name] = value;
  }
  return found;
}

function matrixConfigurations(info: GPUAdapterInfo): string[] {
  return matrixConfigs(info).map(
    (c) => `${c.M}x${c.N}x${c.K} ${c.componentType} to ${c.resultComponentType}`,
  );
}

interface Probe {
  name: string;
  shapes: number[][];
  tolerance: number;
  run: (inputs: Tensor[]) => Tensor;
}

/** Odd sizes on purpose: they reach the edges of every tile. */
const probes: readonly Probe[] = [
  { name: "add, broadcast", shapes: [[65, 33], [33]], tolerance: 1e-5, run: ([a, b]) => add(a!, b!) },
  {
    name: "matmul",
    shapes: [
      [67, 130],
      [130, 35],
    ],
    tolerance: 1e-4,
    run: ([a, b]) => matmul(a!, b!),
  },
  { name: "softmax", shapes: [[19, 130]], tolerance: 1e-5, run: ([a]) => softmax(a!) },
  { name: "rms_norm", shapes: [[19, 130], [130]], tolerance: 1e-4, run: ([a, w]) => rmsNorm(a!, w!) },
  {
    name: "attention, causal",
    shapes: [
      [2, 3, 37, 16],
      [2, 3, 37, 16],
      [2, 3, 37, 16],
    ],
    tolerance: 1e-4,
    run: ([q, k, v]) => attention(q!, k!, v!, { causal: true }),
  },
];

async function check(device: WebGpuDevice): Promise<DoctorCheck[]> {
  const reference = new ReferenceDevice();
  const checks: DoctorCheck[] = [];
  for (const probe of probes) {
    const want = await results(probe, reference);
    const got = await results(probe, device);
    // Relative where numbers are large. NaN must win: Math.max keeps it, a comparison would drop it.
    const error = got.reduce((most, value, i) => {
      return Math.max(most, Math.abs(value - want[i]) / Math.max(1, Math.abs(want[i])));
    }, 0);
    const { name, tolerance } = probe;
    checks.push({ name, error, tolerance, ok: error <= tolerance });
  }
  return checks;
}

/** The op's result and its derivatives for a cotangent equal to the result. */
async function results(probe: Probe, on: Device): Promise<number[]> {
  const tensors = withDevice(on, () =>
    scope(() => {
      const inputs = probe.shapes.map((shape, i) => tensor(waves(shape, i), shape).requireGrad());
      const y = probe.run(inputs);
      return [y, ...grads(y, inputs, { cotangents: [y.detach()] })];
    }),
  );
  const values: number[] = [];
  for (const t of tensors) if (t) values.push(...(await t.data()));
  dispose(tensors);
  return values;
}

/** Values in [-1, 1] without a pattern that a wrong index could repeat. */
function waves(shape: readonly number[], seed: number): Float32Array {
  const size = shape.reduce((a, b) => a * b, 1);
  return Float32Array.from({ length: size }, (_, i) => Math.sin(1 + seed + i * 12.9898 + (i % 7)));
}

async function measure(device: WebGpuDevice): Promise<DoctorSpeed> {
  const { software } = device.description;
  const size = software ? 512 : 2048;
  const square = () => tensor(waves([size, size], 1), [size, size]);
  const [a, b] = [square(), square()];
  const small = tensor([1, 2, 3, 4]);
  const product = await best(device, 4, () => matmul(a, b));
  const links = 200;
  const chain = await best(device, 3, () => {
    let x = small;
    for (let i = 0; i < links; i++) x = add(x, small);
  });
  let readback = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 10; i++) {
    const start = performance.now();
    const y = add(small, small);
    await y.data();
    readback = Math.min(readback, performance.now() - start);
    dispose(y);
  }
  dispose([a, b, small]);
  return {
    matmul_gflops: (2 * size ** 3) / product / 1e6,
    matmul_size: size,
    copy_gb_per_s: await copyBandwidth(device, 300),
    dispatch_us: (chain / links) * 1e3,
    readback_us: readback * 1e3,
    compile_ms: await compileTime(device.gpu),
  };
}

/** Least milliseconds of several runs after one that warms up, each until the device is idle. */
async function best(device: WebGpuDevice, runs: number, body: () => unknown): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i <= runs; i++) {
    const start = performance.now();
    scope(() => {
      noGrad(body);
    });
    await device.sync();
    if (i > 0) least = Math.min(least, performance.now() - start);
  }
  return least;
}

async function compileTime(gpu: GPUDevice): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 3; i++) {
    // A number that no earlier run compiled, or the driver's cache would answer.
    const unique = (performance.timeOrigin + performance.now()).toFixed(3);
    const code = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        x[id.x] = tanh(x[id.x] * ${unique}f) + exp(-x[id.x]);
      }`;
    const start = performance.now();
    const module = gpu.createShaderModule({ code });
    await gpu.createComputePipelineAsync({ layout: "auto", compute: { module } });
    least = Math.min(least, performance.now() - start);
  }
  return least;
}
