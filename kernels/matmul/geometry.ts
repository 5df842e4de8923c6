import type { Call, TensorMeta } from "../../core/op.ts";
import {
  broadcastShapes,
  broadcastStrides,
  collapseAxes,
  isContiguous,
  type Shape,
} from "../../core/shape.ts";

export type Activation = "gelu" | "gelu_tanh" | "silu";

/** y = activation(scale * A B + bias) + residual; the inputs are A, B and, if the attributes have them, bias and residual. */
export interface MatmulAttrs {
  /** Input 2 is a bias of shape [N]. */
  bias?: boolean;
  activation?: Activation;
  /** The last input is added to the result; it has the result's shape. */
  residual?: boolean;
  /** Factor of the product, default 1. */
  scale?: number;
  /**
   * The bits of a row of the result do not depend on how many rows there are: the order of summation is chosen by
   * N and K alone. A server needs this, so that a request's answer does not depend on who else is served.
   */
  batchInvariant?: boolean;
  /** B is packed: see kernels/quantized_matmul. */
  nf4?: boolean;
  /** The sums of an f16 product are stored in f32: for logits, and for gradients that are added up. */
  outDtype?: "f32";
}

/** A product as kernels see it: batches of [M, K] times [K, N], each operand with any strides. */
export interface Geometry {
  M: number;
  N: number;
  K: number;
  a: Matrix;
  b: Matrix;
  batchShape: readonly number[];
  batches: number;
}

/** Where the elements of one operand are: offset + batch * batchStrides + row * rowStride + col * colStride. */
interface Matrix {
  offset: number;
  row: number;
  col: number;
  batch: readonly number[];
  /** Its elements are packed; offset and strides count them, not words. */
  nf4?: boolean;
}

/** How an operand is loaded: as vec4 along its columns, as vec4 along its rows, or element by element. */
export const Mode = { columns: 0, rows: 1, single: 2 } as const;

/** The shape of the product of operands as PyTorch's `matmul` defines it, or what is wrong with them. */
export function productShape(a: Shape, b: Shape): Shape | string {
  if (a.length === 0 || b.length === 0) return "both operands need at least one axis";
  const inner = b.at(-2) ?? b[0];
  if (a.at(-1) !== inner)
    return `the last axis of the first (${a.at(-1)}) must equal the last but one of the second (${inner})`;
  const batch = broadcastShapes("matmul", [a.slice(0, -2), b.slice(0, -2)]);
  return [...batch, ...(a.length > 1 ? [a.at(-2)!] : []), ...(b.length > 1 ? [b.at(-1)!] : [])];
}

/** Folds batch axes that the second operand lacks into rows, and merges the others as far as strides allow. */
export function geometryOf({ inputs, attrs }: Pick<Call<MatmulAttrs>, "inputs" | "attrs">): Geometry {
  const [a, b] = inputs as [TensorMeta, TensorMeta];
  const K = a.shape.at(-1)!;
  const N = b.shape.length > 1 ? b.shape.at(-1)! : 1;
  const aBatch = a.shape.slice(0, -2);
  const bBatch = b.shape.slice(0, -2);
  const batch = broadcastShapes("matmul", [aBatch, bBatch]);
  const full = [...batch, a.shape.at(-2) ?? 1];
  const { shape, strides } = collapseAxes(full, [
    [...broadcastStrides(aBatch, a.strides.slice(0, -2), batch), a.strides.at(-2) ?? 0],
    [...broadcastStrides(bBatch, b.strides.slice(0, -2), batch), 0],
  ]);
  const [aStrides, bStrides] = strides as [number[], number[]];
  const folds = bStrides.at(-1) === 0;
  const outer = folds ? shape.length - 1 : shape.length;
  const M = folds ? shape.at(-1)! : 1;
  const bRow = b.shape.length > 1 ? b.strides.at(-2)! : b.strides[0];
  const bCol = b.shape.length > 1 ? b.strides.at(-1)! : 0;
  // Nobody steps along an axis of extent 1: stride 0 keeps it from spoiling the alignment.
  const walked = (extent: number, stride: number) => (extent > 1 ? stride : 0);
  return {
    M,
    N,
    K,
    a: {
      offset: a.offset,
      row: walked(M, aStrides.at(-1)!),
      col: walked(K, a.strides.at(-1)!),
      batch: aStrides.slice(0, outer),
    },
    b: {
      offset: b.offset,
      row: walked(K, bRow),
      col: walked(N, bCol),
      batch: bStrides.slice(0, outer),
      nf4: attrs.nf4 ?? false,
    },
    batchShape: shape.slice(0, outer),
    batches: shape.slice(0, outer).reduce((x, y) => x * y, 1),
  };
}

/** How a kernel may load an operand: vectors need stride 1 along their axis and multiples of four elsewhere. */
export function modeOf({ offset, row, col, batch }: Matrix): number {
  const aligned = [offset, ...batch].every((x) => x % 4 === 0);
  if (aligned && col === 1 && row % 4 === 0) return Mode.columns;
  if (aligned && row === 1 && col % 4 === 0) return Mode.rows;
  return Mode.single;
}

/** Whether the residual, if any, can be read beside the result. */
export function residualFits({ inputs, attrs }: Call<MatmulAttrs>): boolean {
  const residual = attrs.residual ? inputs.at(-1)! : null;
  return residual === null || isContiguous(residual.shape, residual.strides);
}
