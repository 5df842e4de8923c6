// The library: `import { openDevice, tensor } from "kiln"`. Layers, models, training, tokenizers and the server are in
// kiln/nn, kiln/models, kiln/train, kiln/tokenizer and kiln/serve.
export { backward, custom, type GradOptions, grads } from "./core/autograd.ts";
export { type Compiled, compile } from "./core/compile.ts";
export { type Device, device, dispose, persist, scope, setDevice, withDevice } from "./core/device.ts";
export type { DType, HostArray } from "./core/dtype.ts";
export { KilnError } from "./core/errors.ts";
export { type AdapterDescription, type AdapterOptions, describe } from "./core/platform/adapter.ts";
export type { ReferenceDevice } from "./core/reference_device.ts";
export type { Shape } from "./core/shape.ts";
export { noGrad } from "./core/tape.ts";
export { full, type NestedNumbers, ones, Tensor, tensor, zeros } from "./core/tensor.ts";
export type { WebGpuDevice } from "./core/webgpu/device.ts";
export { addInto, assignInto } from "./kernels/assign/op.ts";
export { type AttentionOptions, attention } from "./kernels/attention/op.ts";
export { type LinearCrossEntropyOptions, linearCrossEntropy } from "./kernels/cross_entropy/linear.ts";
export { type CrossEntropyOptions, crossEntropy } from "./kernels/cross_entropy/op.ts";
export * from "./kernels/elementwise/index.ts";
export { embedding } from "./kernels/embedding/op.ts";
export { gather, indexSelect, scatterAdd } from "./kernels/gather/op.ts";
export { layerNorm } from "./kernels/layer_norm/op.ts";
export * from "./kernels/matmul/index.ts";
export { openDevice, openReference } from "./kernels/open.ts";
export * from "./kernels/pad/index.ts";
export { dropout, randomNormal, randomUniform } from "./kernels/random/op.ts";
export * from "./kernels/reduce/index.ts";

import "./kernels/rewrites.ts";

export { rmsNorm } from "./kernels/rms_norm/op.ts";
export { rope } from "./kernels/rope/op.ts";
export { logSoftmax, softmax } from "./kernels/softmax/op.ts";
export * from "./kernels/views/index.ts";
export { manualSeed } from "./nn/init.ts";
