import { type AnyOp, findOp } from "./op.ts";

// The ops that core itself calls. Kernels define them, and core may not import kernels: it finds them by name.

/** A row-major copy of a view: what kernels read that take no strides. */
export const copyOp = (): AnyOp => findOp("copy");
/** A tensor of one value. */
export const fillOp = (): AnyOp => findOp("fill");
/** The sum of two tensors: derivatives that meet. */
export const addOp = (): AnyOp => findOp("add");
