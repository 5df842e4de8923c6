import { backward } from "../core/autograd.ts";
import { Tensor } from "../core/tensor.ts";
import * as creation from "./creation/index.ts";
import * as einsums from "./einsum/index.ts";
import { glu } from "./elementwise/glu.ts";
import * as elementwise from "./elementwise/index.ts";
import * as gathering from "./gather/op.ts";
import { matmul } from "./matmul/index.ts";
import * as padOps from "./pad/index.ts";
import { dropout } from "./random/op.ts";
import * as rearranging from "./rearrange/index.ts";
import * as reductions from "./reduce/index.ts";
import * as searching from "./search/index.ts";
import { logSoftmax, softmax } from "./softmax/op.ts";
import * as views from "./views/index.ts";

// Methods of Tensor: what these modules export and takes a tensor first. A new function of theirs is a method at once;
// one that takes something else first is left out here, or does not compile.
const { cat, stack, place, ...padding } = padOps;
const { arange, linspace, eye, meshgrid, ...creating } = creation;
const { einsum, ...products } = einsums;
const { swiglu, bceWithLogits, copy, ...pointwise } = elementwise;
const { sumTo, ...reducing } = reductions;
const { contiguous, ...viewing } = views;

/** Names and argument orders that PyTorch and NumPy give to the same functions. */
const aliases = {
  clone: copy,
  max: reductions.amax,
  min: reductions.amin,
  to: elementwise.cast,
  t: (x: Tensor): Tensor => views.transpose(x),
  view: views.reshape,
  /** x where condition (bool) holds, else other. */
  where: (x: Tensor, condition: Tensor, other: elementwise.Operand): Tensor =>
    elementwise.where(condition, x, other),
};

const functions = {
  ...pointwise,
  ...viewing,
  ...reducing,
  ...padding,
  ...gathering,
  ...creating,
  ...products,
  ...rearranging,
  ...searching,
  matmul,
  softmax,
  logSoftmax,
  dropout,
  backward,
  glu,
  ...aliases,
};

type Method<F> = F extends (x: Tensor, ...rest: infer Rest) => infer Result
  ? (...rest: Rest) => Result
  : never;
/** Each function without its first argument, which the tensor is. */
export type TensorMethods = { [Name in keyof typeof functions]: Method<(typeof functions)[Name]> };

declare module "../core/tensor.ts" {
  interface Tensor extends TensorMethods {}
}

const checked: Record<string, (x: Tensor, ...rest: never[]) => unknown> = functions;
for (const [name, f] of Object.entries(checked)) {
  Object.defineProperty(Tensor.prototype, name, {
    configurable: true,
    writable: true,
    value(this: Tensor, ...rest: never[]) {
      return f(this, ...rest);
    },
  });
}
