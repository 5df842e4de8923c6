// The library: `import { openDevice, tensor } from "kiln"`; all else is in kiln/nn, kiln/models, kiln/train, kiln/tokenizer and kiln/serve.
import "./kernels/index.ts"; // registers every op and the methods of Tensor

export { backward, checkpoint, custom, type GradOptions, grads } from "./core/autograd.ts";
export { type Compiled, compile } from "./core/compile.ts";
export { type Device, device, setDevice, withDevice } from "./core/device.ts";
export type { DType, HostArray } from "./core/dtype.ts";
export { KilnError } from "./core/errors.ts";
export { type AdapterDescription, type AdapterOptions, describe } from "./core/platform/adapter.ts";
export type { ReferenceDevice } from "./core/reference_device.ts";
export { dispose, persist, scope } from "./core/scope.ts";
export type { Shape } from "./core/shape.ts";
export { noGrad } from "./core/tape.ts";
export { full, type NestedNumbers, ones, Tensor, tensor, zeros } from "./core/tensor.ts";
export type { WebGpuDevice } from "./core/webgpu/device.ts";
export { type TimedDispatch, timeDispatches } from "./core/webgpu/timestamps.ts";
export * from "./kernels/assign/op.ts";
export { type AttentionOptions, attention } from "./kernels/attention/op.ts";
export {
  type ConvOptions,
  type ConvTransposeOptions,
  conv1d,
  conv2d,
  conv3d,
  convTranspose1d,
  convTranspose2d,
  fold,
  type UnfoldOptions,
  unfold,
} from "./kernels/conv/op.ts";
export * from "./kernels/creation/index.ts";
export { type LinearCrossEntropyOptions, linearCrossEntropy } from "./kernels/cross_entropy/linear.ts";
export { type CrossEntropyOptions, crossEntropy } from "./kernels/cross_entropy/op.ts";
export * from "./kernels/einsum/index.ts";
export { glu } from "./kernels/elementwise/glu.ts";
export * from "./kernels/elementwise/index.ts";
export { embedding } from "./kernels/embedding/op.ts";
export * from "./kernels/gather/op.ts";
export * from "./kernels/interpolate/index.ts";
export { type LinearOptions, linear, type MatmulOptions, matmul } from "./kernels/matmul/op.ts";
export { layerNorm, rmsNorm } from "./kernels/norm/op.ts";
export { openDevice, openReference } from "./kernels/open.ts";
export * from "./kernels/pad/index.ts";
export * from "./kernels/pool/index.ts";
export * from "./kernels/random/op.ts";
export * from "./kernels/rearrange/index.ts";
export * from "./kernels/reduce/index.ts";
export { rope } from "./kernels/rope/op.ts";
export {
  argsort,
  bincount,
  maskedSelect,
  nonzero,
  searchsorted,
  unique,
} from "./kernels/search/index.ts";
export { logSoftmax, softmax } from "./kernels/softmax/op.ts";
export * from "./kernels/views/index.ts";
export { manualSeed } from "./nn/init.ts";
