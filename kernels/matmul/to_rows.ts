import { wgslType } from "../../core/dtype.ts";
import type { Call, Lowering, Pass } from "../../core/op.ts";
import { foldGrid } from "../include/grid.ts";
import { type Geometry, type MatmulAttrs, Mode, modeOf } from "./geometry.ts";

/**
 * Whether a software adapter saves more by reading B in rows than it spends on copying it there. Measured: with
 * subgroups of 8 the copy takes 1 to 7 % of a product of 1024 rows, and both together take a third less time than
 * the product from columns, and at 128 rows a tenth less. With subgroups of 4 neither way is quicker, and without copies a
 * training step has two kernels fewer to compile. Servers, which ask for `batchInvariant`, have few rows.
 */
export function paysInRows({ profile, attrs }: Call<MatmulAttrs>, { M, b }: Geometry): boolean {
  return profile.subgroupSize >= 4 && M >= 128 && !attrs.batchInvariant && modeOf(b) !== Mode.columns;
}

/** The product once B is stored by rows. Each matrix of B is stored once, however many batches share it. */
export function inRows(geometry: Geometry): Geometry {
  const { N, K, b, batchShape } = geometry;
  const row = Math.ceil(N / 4) * 4;
  const batch: number[] = [];
  let size = K * row;
  for (let axis = batchShape.length - 1; axis >= 0; axis--) {
    const shared = b.batch[axis] === 0;
    batch.unshift(shared ? 0 : size);
    if (!shared) size *= batchShape[axis];
  }
  return { ...geometry, b: { offset: 0, row, col: 1, batch } };
}

/** A product planned for `inRows(geometry)`, and the copy of B before it. */
export function copyFirst(call: Call<MatmulAttrs>, geometry: Geometry, product: Lowering): Lowering {
  const { N, K, b, batchShape } = geometry;
  const own = batchShape.map((_, axis) => axis).filter((axis) => b.batch[axis] !== 0);
  const shape = own.map((axis) => batchShape[axis]);
  const matrices = shape.reduce((x, y) => x * y, 1);
  const columns = Math.ceil(N / 4);
  const grid = foldGrid(Math.ceil((matrices * Math.ceil(K / 4) * columns) / 64), call.profile);
  const temps = product.temps ?? [];
  const copy = `tmp${temps.length}` as const;
  const pass: Pass = {
    file: "matmul/to_rows.wgsl",
    defines: {
      TB: wgslType(call.inputs[1].dtype),
      B_NF4: b.nf4 ?? false,
      B_VEC: modeOf(b) === Mode.rows,
      QUADS: `${Math.max(2, Math.ceil(own.length / 4))}`,
    },
    params: {
      N,
      K,
      matrices,
      gridX: grid[0],
      bOffset: b.offset,
      bRow: b.row,
      bCol: b.col,
      axes: own.length,
      shape,
      strides: own.map((axis) => b.batch[axis]),
    },
    grid,
    bind: ["in1", copy],
  };
  return {
    passes: [
      pass,
      ...product.passes.map((p) => ({ ...p, bind: p.bind?.map((x) => (x === "in1" ? copy : x)) })),
    ],
    temps: [...temps, { dtype: call.inputs[1].dtype, length: matrices * K * columns * 4 }],
  };
}
