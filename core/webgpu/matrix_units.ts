import type { MatrixShape, MatrixUnits } from "../op.ts";
import { preprocess, type SourceReader } from "../wgsl.ts";

/** Experimental in Chromium, and not yet in @webgpu/types. */
export const matrixFeature = "chromium-experimental-subgroup-matrix";

/** An entry of Chromium's experimental list of products that matrix units compute. */
interface MatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

/** What an adapter's matrix units compute; empty where it says nothing. */
export function matrixConfigs(info: object): MatrixConfig[] {
  return Array.from((info as { subgroupMatrixConfigs?: Iterable<MatrixConfig> }).subgroupMatrixConfigs ?? []);
}

/** The shapes that an adapter offers for f16 operands and f32 results, most products an instruction first. */
export function matrixShapes({
  features,
  info,
}: Pick<GPUAdapter, "features"> & { info: object }): MatrixShape[] {
  if (!features.has(matrixFeature) || !features.has("shader-f16")) return [];
  return matrixConfigs(info)
    .filter((c) => c.componentType === "f16" && c.resultComponentType === "f32")
    .map((c) => ({ m: c.M, n: c.N, k: c.K }))
    .sort((a, b) => b.m * b.n * b.k - a.m * a.n * a.k);
}

/** How the builtins are written. */
type Spelling = Pick<MatrixUnits, "dialect" | "vectors">;

/** What a kernel that imports matrix_units/units.wgsl is specialised by. */
export function matrixDefines(
  { dialect, vectors }: Spelling,
  { m, n, k }: MatrixShape,
): Record<string, number | boolean | string> {
  return {
    DIALECT: dialect,
    MM: m,
    MN: n,
    MK: k,
    STAGED_VECTORS: vectors !== null,
    OFFSET_UNIT: vectors?.offset ?? 1,
    STRIDE_UNIT: vectors?.stride ?? 1,
  };
}

/**
 * Finds out how the matrix units are to be used, by small products whose results are known: the first dialect that
 * compiles, the shapes that come out right in it, and in which unit offsets into arrays of vectors count. Null where
 * nothing works.
 */
export async function probeMatrixUnits(
  gpu: GPUDevice,
  shapes: readonly MatrixShape[],
  subgroupSize: number,
  read: SourceReader,
): Promise<MatrixUnits | null> {
  if (subgroupSize === 0) return null;
  const works = (units: Spelling, shape: MatrixShape) => multiplies(gpu, units, shape, subgroupSize, read);
  for (const dialect of ["template", "boolean"] as const) {
    const right: MatrixShape[] = [];
    for (const shape of shapes) if (await works({ dialect, vectors: null }, shape)) right.push(shape);
    if (right.length === 0) continue;
    let vectors: MatrixUnits["vectors"] = null;
    for (const unit of dialect === "template" ? vectorUnits : []) {
      if (!vectors && (await works({ dialect, vectors: unit }, right[0]))) vectors = unit;
    }
    return { dialect, shapes: right, vectors, refused: [] };
  }
  return null;
}

const vectorUnits = [
  { offset: 4, stride: 1 },
  { offset: 4, stride: 4 },
  { offset: 1, stride: 1 },
  { offset: 1, stride: 4 },
] as const;

/** Whether one product comes out exactly. */
export async function multiplies(
  gpu: GPUDevice,
  units: Spelling,
  shape: MatrixShape,
  subgroupSize: number,
  read: SourceReader,
): Promise<boolean> {
  return isProduct(await multiply(gpu, probeSource(units, shape, subgroupSize, read), shape), shape);
}

/** The source of the probe, header and all. */
export function probeSource(
  units: Spelling,
  shape: MatrixShape,
  subgroupSize: number,
  read: SourceReader,
): string {
  const defines = { SG: subgroupSize, ...matrixDefines(units, shape), ...probeSizes(shape) };
  const body = preprocess("matrix_units/probe.wgsl", defines, read);
  const header =
    units.dialect === "emulated"
      ? "diagnostic(off, subgroup_uniformity);\nalias T0 = f32;\n"
      : `${matrixEnable}enable f16;\n`;
  return `enable subgroups;\n${header}${body}`;
}

/** The directives of a kernel for matrix units. Tints that cannot tell what is uniform in a subgroup want the second. */
export const matrixEnable =
  "enable chromium_experimental_subgroup_matrix;\ndiagnostic(off, chromium.subgroup_matrix_uniformity);\n";

/** Rows are padded, so that a stride that is taken for an extent shows. */
function probeSizes({ m, n, k }: MatrixShape): Record<string, number> {
  return { STAGED: m * (k + 8) + k * (n + 8), DRAINED: m * (n + 4) };
}

/** Runs the probe; an empty array where it does not compile. */
async function multiply(gpu: GPUDevice, code: string, { m, n }: MatrixShape): Promise<Float32Array> {
  for (const kind of ["validation", "internal", "out-of-memory"] as const) gpu.pushErrorScope(kind);
  const size = m * n * 4;
  const module = gpu.createShaderModule({ code });
  const pipeline = gpu.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
  const out = gpu.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const staging = gpu.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const group = gpu.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: out } }],
  });
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(out, 0, staging, 0, size);
  gpu.queue.submit([encoder.finish()]);
  const errors = await Promise.all([gpu.popErrorScope(), gpu.popErrorScope(), gpu.popErrorScope()]);
  if (errors.some(Boolean)) return new Float32Array();
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  out.destroy();
  return values;
}

/** Whether the probe's result is the product of a[i][p] = (i + 2 p) % 5 - 2 and b[p][j] = (3 p + j) % 7 - 3, exactly. */
function isProduct(got: Float32Array, { m, n, k }: MatrixShape): boolean {
  if (got.length !== m * n) return false;
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) sum += (((i + 2 * p) % 5) - 2) * (((3 * p + j) % 7) - 3);
      if (got[i * n + j] !== sum) return false;
    }
  }
  return true;
}
