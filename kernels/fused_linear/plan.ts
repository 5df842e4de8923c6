import { wgslType } from "../../core/dtype.ts";
import type { Call, DeviceProfile, Lowering, Pass, TensorMeta, Variant } from "../../core/op.ts";
import { foldGrid } from "../include/grid.ts";
import { byName, type FusedLinearAttrs, type FusedQkvAttrs, inputNames } from "./inputs.ts";

type Attrs = FusedLinearAttrs | FusedQkvAttrs;

/** Which of the bodies computes a call: threads that share K's walk, subgroups that share a sum, or single elements. */
interface Body {
  file: string;
  /** Elements of a cell. */
  W: 1 | 4;
  /** Rows that share the loads of a weight. */
  rows: number;
  threads: number;
  units: number;
  alongK: boolean;
  /** Lanes of a subgroup, which is the workgroup, load a row each and hand them round. */
  handed?: boolean;
}

const norms = { none: 0, rms: 1, layer: 2 };
const activations = { none: 0, gelu: 1, gelu_tanh: 2, swiglu: 0 };

/** Sizes of a call. `parts`: elements of each of the adjacent weights, in units of two cells. */
function extents(call: Call<Attrs>, W: number) {
  const { attrs, outputs } = call;
  const given = byName(call.inputs, attrs);
  const { x, weight0, keyCache } = given as Record<string, TensorMeta>;
  const axis = attrs.inOut ? 1 : 0;
  const [first, , kvHeads = 0, dim = 0] = keyCache?.shape ?? [];
  const gated = "activation" in attrs && attrs.activation === "swiglu";
  const columnsOf = (name: string) => given[name]?.shape[axis] ?? 0;
  const parts = "heads" in attrs && attrs.separate ? ["weight0", "weight1", "weight2"] : ["weight0"];
  return {
    given,
    gated,
    rows: outputs[0].shape[0],
    width: x!.shape[1],
    columns: weight0!.shape[axis],
    parts: parts.map((name) => Math.ceil(columnsOf(name) / (gated ? W : 2 * W))),
    kvHeads,
    half: dim / 2 / W,
    slots: keyCache ? first! * keyCache.shape[1] : 0,
    span: given.places?.shape[1] ?? 0,
  };
}

function definesOf(
  call: Call<Attrs>,
  body: Body,
  size: ReturnType<typeof extents>,
): NonNullable<Pass["defines"]> {
  const { attrs, outputs } = call;
  const { given, gated, parts, columns } = size;
  const { W } = body;
  const qkv = "heads" in attrs;
  const whole = W === 1 || columns % 4 === 0;
  const cell = (dtype: string | undefined) => (W === 4 ? `vec4<${dtype ?? "f32"}>` : (dtype ?? "f32"));
  const type = (name: string) => wgslType(given[name]?.dtype ?? "f32");
  const single = (dtype: string) => (whole ? cell(dtype) : dtype);
  return {
    W,
    TM: body.rows,
    THREADS: body.threads,
    UNITS: body.units,
    BELOW: body.rows - 1,
    LOADS: body.handed ? Math.ceil(body.rows / call.profile.subgroupSize) : body.rows,
    HANDED: body.handed ?? false,
    ALONG_K: body.alongK,
    WEIGHTS: parts.length + Number(gated),
    PARTS: parts.length,
    NORM: norms[attrs.norm ?? "none"],
    BIAS: attrs.bias ?? false,
    IN_OUT: attrs.inOut ?? false,
    PAIRED: qkv,
    ROTARY: qkv && (attrs.rotary ?? false),
    GATED: gated,
    ACTIVATION: qkv ? 0 : activations[attrs.activation ?? "none"],
    RESIDUAL: !qkv && (attrs.residual ?? false),
    CHOSEN: !qkv && (attrs.chosen ?? false),
    WHOLE: whole,
    V: cell("f32"),
    VB: cell("bool"),
    VU: cell("u32"),
    CX: cell(type("x")),
    CW: cell(type("weight0")),
    CNORM: cell(type("normWeight")),
    CCACHE: cell(type("keyCache")),
    CRESIDUAL: single(type("residual")),
    COUT: single(wgslType(outputs[0].dtype)),
    TBIAS: type("bias"),
    FIRST: W === 4 ? ".x" : "",
    ...Object.fromEntries([0, 1, 2].map((p) => [`second${p}`, gated ? "w1" : `w${p}`])),
  };
}

/**
 * Whether x goes through the norm in a pass of its own. On a processor every workgroup that applies it to what it reads
 * loads the norm's vectors too, and recomputes the statistics: for wide or many rows that is more than a dispatch costs.
 */
function normsFirst({ attrs, outputs, inputs, profile }: Call<Attrs>): boolean {
  if (!attrs.norm || profile.class === "gpu" || profile.subgroupSize < 4) return false;
  if ("chosen" in attrs && attrs.chosen) return false;
  return outputs[0].shape[0] > 16 || inputs[0].shape[1] >= 256;
}

function planBody(call: Call<Attrs>, body: Body): Lowering {
  const { W } = body;
  const size = extents(call, W);
  const { rows, width, columns, parts } = size;
  const tiles = parts.reduce((sum, units) => sum + Math.ceil(units / body.units), 0);
  const cells = width / W;
  const defines = definesOf(call, body, size);
  const product: Pass = {
    file: body.file,
    defines,
    params: {
      rows,
      cells,
      columns,
      stride: call.attrs.inOut ? columns / W : columns,
      tiles,
      half: size.half,
      heads: "heads" in call.attrs ? call.attrs.heads : 0,
      kv_heads: size.kvHeads,
      slots: size.slots,
      span: size.span,
      width,
      eps: call.attrs.eps ?? 0,
      parts,
    },
    grid: foldGrid(Math.ceil(rows / body.rows) * tiles, call.profile),
  };
  if (W === 1 || !normsFirst(call)) return { passes: [product] };
  const names = inputNames(call.attrs);
  const bind = (wanted: (name: string) => boolean) =>
    names.flatMap((name, i) => (wanted(name) ? [`in${i}` as const] : []));
  const norm: Pass = {
    file: "fused_linear/rows.wgsl",
    defines: { ...defines, THREADS: 8 * call.profile.subgroupSize },
    params: { rows, cells, width, eps: call.attrs.eps ?? 0 },
    grid: foldGrid(Math.ceil(rows / 8), call.profile),
    bind: [...bind((name) => name === "x" || name.startsWith("norm")), "tmp0"],
  };
  const rest: Pass = {
    ...product,
    defines: { ...defines, NORM: 0, CX: "vec4<f32>" },
    bind: ["tmp0", ...bind((name) => name !== "x" && !name.startsWith("norm")), "out0"],
  };
  return { passes: [norm, rest], temps: [{ dtype: "f32", length: rows * width }] };
}

/** Whether rows of x and of the weights, and halves of heads, are whole cells of four. */
function isWhole(call: Call<Attrs>): boolean {
  const { width, columns, half } = extents(call, 4);
  return width % 4 === 0 && Number.isInteger(half) && (!call.attrs.inOut || columns % 4 === 0);
}

const product = "fused_linear/product.wgsl";

/** Rows that share what is loaded of a weight: few kernels, whatever the batch. */
function rowsFor({ outputs, profile }: Call<Attrs>): number {
  const rows = outputs[0].shape[0];
  if (rows === 1) return 1;
  // Sixteen share their rows of x by broadcast; otherwise these would be most of the loads.
  return rows > 8 && handsRound(profile) ? 16 : 4;
}

const handsRound = ({ class: kind, subgroupSize }: DeviceProfile) =>
  kind === "cpu" && subgroupSize >= 4 && subgroupSize <= 16;

export function variants<A extends Attrs>(): Variant<A>[] {
  const of = (
    name: string,
    file: string,
    body: (call: Call<Attrs>) => Omit<Body, "file">,
    when?: (call: Call<Attrs>) => boolean,
  ): Variant<A> => ({
    name,
    file,
    ...(when && { when: when as (call: Call<A>) => boolean }),
    plan: (call) => planBody(call as Call<Attrs>, { file, ...body(call as Call<Attrs>) }),
  });
  return [
    of(
      "subgroups",
      product,
      (call) => {
        const units = 4;
        const threads = units * call.profile.subgroupSize;
        return { W: 4, rows: rowsFor(call), threads, units, alongK: true };
      },
      // Weights stored along N have their neighbours under neighbouring threads already.
      (c) => c.profile.class === "gpu" && c.profile.subgroupSize > 0 && !c.attrs.inOut && isWhole(c),
    ),
    of(
      "threads",
      product,
      (call) => {
        const { class: kind, subgroupSize } = call.profile;
        const threads = kind === "cpu" ? Math.max(subgroupSize, 4) : 64;
        const rows = rowsFor(call);
        return {
          W: 4,
          rows,
          threads,
          units: threads,
          alongK: false,
          handed: rows > 1 && handsRound(call.profile),
        };
      },
      isWhole,
    ),
    of("plain", "fused_linear/plain.wgsl", () => ({ W: 1, rows: 1, threads: 64, units: 64, alongK: false })),
  ];
}
