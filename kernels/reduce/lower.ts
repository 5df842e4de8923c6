import { type DType, isFloat } from "../../core/dtype.ts";
import {
  type Call,
  type DeviceProfile,
  type Lowering,
  type OutputMeta,
  opError,
  type Pass,
  type RefTensor,
  type Variant,
} from "../../core/op.ts";
import { numel, type Shape } from "../../core/shape.ts";
import { foldGrid } from "../include/grid.ts";

/** Attributes of a reduction: neighbouring axes, ascending. They stay in the result with extent 1. */
export interface ReduceAttrs {
  readonly dims: readonly number[];
}

/** A commutative, associative operation that combines values. */
export interface Reducer {
  /** WGSL over a and b. */
  readonly combine: string;
  /** Whether `combine` loses NaN, as the builtins max and min may: the kernels then keep it themselves. */
  readonly losesNaN?: boolean;
  readonly f: (a: number, b: number) => number;
  /** f on integers, where float64 has too few digits; they wrap around at 2^32. */
  readonly whole?: (a: number, b: number) => number;
  /** The neutral element of a dtype. */
  readonly identity: (dtype: DType) => number;
}

/** A reduction's input as [outer, n, inner], n being the axes that go. */
export function blocks(shape: Shape, dims: readonly number[]): { outer: number; n: number; inner: number } {
  const first = dims[0] ?? 0;
  const last = dims.at(-1) ?? -1;
  return {
    outer: numel(shape.slice(0, first)),
    n: numel(shape.slice(first, last + 1)),
    inner: numel(shape.slice(last + 1)),
  };
}

/** The input's shape with extent 1 where it is reduced; the axes must be neighbours. */
export function reducedShape(op: string, inputs: readonly OutputMeta[], { dims }: ReduceAttrs): number[] {
  const { shape } = inputs[0];
  const fits = dims.every((dim, i) => dim >= 0 && dim < shape.length && (i === 0 || dim === dims[i - 1] + 1));
  if (inputs.length !== 1 || !fits)
    throw opError(op, inputs, `expected one tensor and neighbouring axes, dims are [${dims}]`);
  return shape.map((extent, axis) => (dims.includes(axis) ? 1 : extent));
}

/** The float64 reference of every reduction. */
export function reduceReference(x: RefTensor, { dims }: ReduceAttrs, out: RefTensor, reducer: Reducer): void {
  const { outer, n, inner } = blocks(x.shape, dims);
  const { f, whole = f } = reducer;
  const step = isFloat(out.dtype) ? f : wrapping(out.dtype, whole);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      let value = reducer.identity(out.dtype);
      for (let k = 0; k < n; k++) value = step(value, x.data[(o * n + k) * inner + i]);
      out.data[o * inner + i] = value;
    }
  }
}

/** Integer arithmetic of a dtype. */
export function wrapping(dtype: DType, f: (a: number, b: number) => number): typeof f {
  return dtype === "u32" ? (a, b) => f(a, b) >>> 0 : (a, b) => f(a, b) | 0;
}

/** Rows by subgroups where the reduced axes are innermost, else one thread per result. */
export function reduceVariants<A extends ReduceAttrs>(
  reducer: Reducer,
  scaleOf: (attrs: A) => number = () => 1,
): Variant<A>[] {
  const lowering = (call: Call<A>, subgroup: boolean) => lower(call, reducer, subgroup, scaleOf(call.attrs));
  return [
    {
      name: "subgroup",
      file: "reduce/rows.wgsl",
      when: ({ profile, inputs, attrs }) =>
        profile.subgroupSize > 0 && blocks(inputs[0].shape, attrs.dims).inner === 1,
      plan: (call) => lowering(call, true),
    },
    { name: "thread", file: "reduce/columns.wgsl", plan: (call) => lowering(call, false) },
  ];
}

function lower(call: Call<ReduceAttrs>, reducer: Reducer, subgroup: boolean, scale: number): Lowering {
  const input = call.inputs[0];
  const output = call.outputs[0];
  const { outer, n, inner } = blocks(input.shape, call.attrs.dims);
  const chunk = chunkLength(call.profile, outer, n, inner, subgroup);
  const chunks = Math.max(1, Math.ceil(n / chunk));
  const compute = computeType(output.dtype);
  const shared = { profile: call.profile, compute, reducer, subgroup, outer, inner };
  const last = { ...shared, to: "U0", scale };
  if (chunks === 1) return { passes: [pass({ ...last, from: "T0", n, chunk, bind: ["in0", "out0"] })] };
  const dtype = compute === "i32" || compute === "u32" ? compute : "f32";
  return {
    temps: [{ dtype, length: outer * chunks * inner }],
    passes: [
      pass({ ...shared, from: "T0", to: compute, n, chunk, scale: 1, bind: ["in0", "tmp0"] }),
      pass({ ...last, from: compute, n: chunks, chunk: chunks, bind: ["tmp0", "out0"] }),
    ],
  };
}

/** Type that is accumulated in. */
export function computeType(dtype: DType): "f32" | "i32" | "u32" {
  if (isFloat(dtype)) return "f32";
  return dtype === "u32" ? "u32" : "i32";
}

/**
 * Elements of the reduced axes that one worker takes. Few results over long axes are cut into chunks whose
 * partial results a second pass combines, in fixed order; the constants keep both passes parallel.
 */
function chunkLength(
  profile: DeviceProfile,
  outer: number,
  n: number,
  inner: number,
  subgroup: boolean,
): number {
  const workers = subgroup ? outer : outer * Math.ceil(inner / 4);
  const wanted = subgroup ? (profile.class === "gpu" ? 4096 : 512) : 8192;
  const shortest = subgroup ? 1024 : 32;
  const most = inner === 1 ? 1024 : 128;
  const chunks = Math.min(Math.floor(wanted / Math.max(1, workers)), Math.floor(n / shortest), most);
  return chunks < 2 ? Math.max(1, n) : Math.ceil(n / chunks / 4) * 4;
}

/** Sums of chunks along the middle axis, [outer, n, inner] -> [outer, chunks, inner] in tmp0. */
export function chunkSums(
  call: Call<unknown>,
  size: ReturnType<typeof blocks>,
  chunk: number,
  sum: Reducer,
): Pass {
  const compute = computeType(call.outputs[0].dtype);
  const bind = ["in0", "tmp0"] as const;
  const { profile } = call;
  return pass({
    profile,
    compute,
    reducer: sum,
    subgroup: false,
    from: "T0",
    to: compute,
    ...size,
    chunk,
    scale: 1,
    bind,
  });
}

interface PassOptions {
  profile: DeviceProfile;
  compute: "f32" | "i32" | "u32";
  reducer: Reducer;
  subgroup: boolean;
  from: string;
  to: string;
  outer: number;
  n: number;
  inner: number;
  chunk: number;
  scale: number;
  bind: NonNullable<Pass["bind"]>;
}

/**
 * Adding n numbers one by one may be off by n roundings, in runs of about sqrt(n) by 2 sqrt(n). Workers with more steps
 * than this add in runs.
 */
const shortestRun = 64;

/** One dispatch of rows.wgsl or columns.wgsl. */
function pass(o: PassOptions): Pass {
  const chunks = Math.max(1, Math.ceil(o.n / o.chunk));
  const wide = (o.subgroup ? o.n : o.inner) % 4 === 0;
  const vector = (type: string) => (wide ? `vec4<${type}>` : type);
  const inner = wide && !o.subgroup ? o.inner / 4 : o.inner;
  const per = wide && o.subgroup ? 4 : 1;
  const results = o.outer * chunks * inner;
  const workgroup = Math.min(Math.max(64, o.profile.subgroupSize), o.profile.maxWorkgroupSize);
  const perGroup = o.subgroup ? workgroup / o.profile.subgroupSize : workgroup;
  const steps = Math.min(o.chunk, o.n) / per / (o.subgroup ? o.profile.subgroupSize : 1);
  const params = {
    results,
    n: o.n / per,
    chunk: o.chunk / per,
    run: Math.max(shortestRun, Math.ceil(Math.sqrt(steps))),
    chunks,
    identity: o.reducer.identity(o.compute),
    scale: o.scale,
  };
  return {
    file: o.subgroup ? "reduce/rows.wgsl" : "reduce/columns.wgsl",
    defines: {
      WG: workgroup,
      WIDE: wide,
      FLOAT: o.compute === "f32",
      RUNS: steps > shortestRun,
      S: o.compute,
      V: vector(o.compute),
      VU: vector("u32"),
      VB: vector("bool"),
      KEEP_NAN: o.compute === "f32" && (o.reducer.losesNaN ?? false),
      IN: vector(o.from),
      OUT: o.subgroup ? o.to : vector(o.to),
      COMBINE: o.reducer.combine,
    },
    params: o.subgroup ? params : { ...params, inner },
    grid: foldGrid(Math.ceil(results / perGroup), o.profile),
    bind: o.bind,
  };
}
