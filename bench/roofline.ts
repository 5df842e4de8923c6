import type { WebGpuDevice } from "../core/webgpu/device.ts";

/** The most that an adapter can do, measured by kernels that do nothing else. */
export interface Roofline {
  /** f32 multiply-adds, counted as two operations each. */
  gflops: number;
  /** A copy's bytes, read plus written. */
  gb_per_s: number;
  /** The maker's own figure for f16 products added up in f32 on matrix units, dense; absent where it is not known. */
  f16_gflops?: number;
}

/**
 * From NVIDIA's data sheets: the only kernel that can measure the peak of matrix units is the product to be judged by it.
 */
const makersF16: [RegExp, number][] = [
  [/\b(H100|H200|GH200)\b(?!.*PCIe)/i, 989_000],
  [/\bA100\b/i, 312_000],
];

/** The f16 roof of an adapter by its name. */
function f16Roof(name: string): Pick<Roofline, "f16_gflops"> {
  const found = makersF16.find(([pattern]) => pattern.test(name));
  return found ? { f16_gflops: found[1] } : {};
}

/** Measures both roofs of an adapter, in about `ms` milliseconds each. */
export async function measureRoofline(device: WebGpuDevice, ms: number): Promise<Roofline> {
  const { device: chip, description } = device.description;
  return {
    gflops: await peakFma(device, ms),
    gb_per_s: await copyBandwidth(device, ms),
    ...f16Roof(`${chip} ${description}`),
  };
}

/** Work that can be repeated inside one submission. */
interface Kernel {
  dispatch: (times: number) => void;
  dispose: () => void;
}

/**
 * Independent chains of fma in registers. How many chains, and of which type, hides the latency best differs between
 * a GPU and a processor with wide vectors, so a few shapes are tried and the fastest counts.
 */
async function peakFma(device: WebGpuDevice, ms: number): Promise<number> {
  const { software } = device.description;
  const shapes = [
    { type: "f32", lanes: 1, chains: 8 },
    { type: "f32", lanes: 1, chains: 12 },
    { type: "vec4f", lanes: 4, chains: 2 },
    { type: "vec4f", lanes: 4, chains: 3 },
  ];
  // A data-centre GPU holds a quarter of a million threads at once.
  const [rounds, unrolled, threads] = [256, 4, software ? 64 * 64 : 2 ** 20];
  let most = 0;
  for (const { type, lanes, chains } of shapes) {
    const all = (f: (i: number) => string) => Array.from({ length: chains }, (_, i) => f(i)).join("");
    const code = `@group(0) @binding(0) var<storage, read_write> y: array<${type}>;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        let a = ${type}(0.999 + 1e-7 * f32(id.x));
        ${all((i) => `var x${i} = ${type}(f32(id.x + ${i}u));`)}
        for (var k = 0u; k < ${rounds}u; k++) { ${all((i) => `x${i} = fma(x${i}, a, a);`).repeat(unrolled)} }
        y[id.x] = ${Array.from({ length: chains }, (_, i) => `x${i}`).join(" + ")};
      }`;
    const kernel = await makeKernel(device.gpu, code, [threads * lanes * 4], threads / 64);
    const seconds = await secondsEach(device, kernel, ms / shapes.length);
    most = Math.max(most, (2 * threads * rounds * unrolled * chains * lanes) / seconds / 1e9);
    kernel.dispose();
  }
  return most;
}

/** Large buffers, larger than a cache. A processor wants few long workgroups, a GPU many: the fastest shape counts. */
export async function copyBandwidth(device: WebGpuDevice, ms: number): Promise<number> {
  const { software } = device.description;
  const bytes = Math.min(software ? 2 ** 25 : 2 ** 28, device.profile.maxBindingBytes);
  const shapes = [
    { size: 256, each: 16 },
    { size: 64, each: 64 },
    software ? { size: 16, each: 1024 } : { size: 256, each: 4 },
  ];
  let most = 0;
  for (const { size, each } of shapes) {
    // Each thread moves `each` vectors; neighbouring threads move neighbouring vectors.
    const code = `@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
      @group(0) @binding(1) var<storage, read> x: array<vec4f>;
      @compute @workgroup_size(${size})
      fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_index) l: u32) {
        let first = w.x * ${size * each}u + l;
        for (var i = first; i < first + ${size * each}u; i += ${size}u) { y[i] = x[i]; }
      }`;
    const groups = Math.min(Math.floor(bytes / 16 / (size * each)), 65535);
    const kernel = await makeKernel(device.gpu, code, [bytes, bytes], groups);
    const seconds = await secondsEach(device, kernel, ms / shapes.length);
    most = Math.max(most, (2 * groups * size * each * 16) / seconds / 1e9);
    kernel.dispose();
  }
  return most;
}

async function makeKernel(gpu: GPUDevice, code: string, sizes: number[], groups: number): Promise<Kernel> {
  const module = gpu.createShaderModule({ code });
  const pipeline = await gpu.createComputePipelineAsync({ layout: "auto", compute: { module } });
  const buffers = sizes.map((size) => gpu.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
  const group = gpu.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const dispatch = (times: number) => {
    const encoder = gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let i = 0; i < times; i++) pass.dispatchWorkgroups(groups);
    pass.end();
    gpu.queue.submit([encoder.finish()]);
  };
  return {
    dispatch,
    dispose: () => {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

/** Least seconds of one dispatch: as many to a submission as make it long against the wait for its end. */
async function secondsEach(device: WebGpuDevice, kernel: Kernel, ms: number): Promise<number> {
  const once = async (times: number) => {
    const start = performance.now();
    kernel.dispatch(times);
    await device.sync();
    return performance.now() - start;
  };
  await once(1);
  let times = 1;
  while ((await once(times)) < 5 && times < 4096) times *= 2;
  let least = Number.POSITIVE_INFINITY;
  for (const end = performance.now() + ms; performance.now() < end; )
    least = Math.min(least, await once(times));
  return (Number.isFinite(least) ? least : await once(times)) / times / 1e3;
}
