import { isFloat } from "../../core/dtype.ts";
import { type Call, defineOp, opError, type TensorMeta, type Variant } from "../../core/op.ts";
import { numel, sameShape } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { vecType } from "../include/vec.ts";
import { everyStep, hyperIndices, hyperNames, hyperOf, hyperValues, noGradient } from "./shared.ts";

/** Checks (f32 tensor to update, float tensor of its shape, hyper, scale). */
function check(name: string, inputs: readonly TensorMeta[]): void {
  const [target, source, hyper, scale] = inputs;
  const fits =
    inputs.length === 4 &&
    target.dtype === "f32" &&
    isFloat(source.dtype) &&
    sameShape(source.shape, target.shape) &&
    numel(hyper.shape) === hyperNames.length &&
    numel(scale.shape) === 1;
  if (fits) return;
  const tensors = "two tensors of one shape (f32 but for a gradient)";
  throw opError(name, inputs, `expected ${tensors}, hyper [${hyperNames.length}] and scale [1]`);
}

function variants<A>(
  file: string,
  defines: (attrs: A) => Record<string, boolean>,
  factor = (_attrs: A) => 1,
): Variant<A>[] {
  const plan = ({ inputs: [{ shape }, { dtype }], attrs, profile }: Call<A>) => {
    const size = numel(shape);
    const vec = size % 4 === 0 ? 4 : 1;
    return {
      defines: { ...hyperIndices, VEC: vec, GRAD: vecType(dtype, vec), ...defines(attrs) },
      params: { size: size / vec, factor: factor(attrs) },
      grid: foldGrid(Math.ceil(size / vec / 256), profile),
    };
  };
  return [{ name: "plain", file, plan }];
}

function samples<A>(attrs: A[]) {
  const values = hyperValues({ lr: 0.1, weight_decay: 0.2, momentum: 0.9 });
  const of = (name: string, shape: number[], a: A, scale: number) => ({
    name,
    inputs: [{ shape }, { shape }, { shape: [values.length], values }, { shape: [1], values: [scale] }],
    attrs: a,
  });
  return attrs.flatMap((a, i) => [
    of(`odd ${i}`, [3, 7], a, 1),
    of(`vec4 ${i}`, [1028], a, 0.5),
    of(`skipped ${i}`, [8], a, 0),
  ]);
}

const momentumOp = defineOp<{ nesterov: boolean }>({
  name: "muon_momentum",
  doc: `Muon's momentum: (buffer, grad, hyper, scale) -> update; the buffer moves by 1 - momentum towards the gradient, in place. ${everyStep}`,
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    check("muon_momentum", inputs);
    return [{ shape: inputs[0].shape, dtype: "f32" }];
  },
  reference([buffer, grad, hyper, scale], { nesterov }, [update]) {
    const { momentum } = hyperOf(hyper.data);
    if (scale.data[0] === 0) return;
    for (let i = 0; i < buffer.data.length; i++) {
      const g = grad.data[i] * scale.data[0];
      buffer.data[i] += (g - buffer.data[i]) * (1 - momentum);
      update.data[i] = nesterov ? g + (buffer.data[i] - g) * momentum : buffer.data[i];
    }
  },
  variants: variants("optim/momentum.wgsl", ({ nesterov }) => ({ NESTEROV: nesterov })),
  samples: () => samples([{ nesterov: true }, { nesterov: false }]),
});

const descendOp = defineOp<{ factor: number }>({
  name: "descend",
  doc: `param = param * (1 - lr * weight_decay) - lr * factor * update: (param, update, hyper, scale), in place. ${everyStep}`,
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    check("descend", inputs);
    return [];
  },
  reference([param, update, hyper, scale], { factor }) {
    const { lr, weight_decay } = hyperOf(hyper.data);
    if (scale.data[0] === 0) return;
    for (let i = 0; i < param.data.length; i++) {
      param.data[i] -= lr * (weight_decay * param.data[i] + factor * update.data[i]);
    }
  },
  variants: variants(
    "optim/descend.wgsl",
    () => ({}),
    ({ factor }) => factor,
  ),
  samples: () => samples([{ factor: 1.5 }]),
});

const f32Cell = new Float32Array(1);
const bitsOfCell = new Uint32Array(f32Cell.buffer);

const bfloat16Op = defineOp<Record<string, never>>({
  name: "round_bfloat16",
  doc: "Every value rounded to the nearest bfloat16, ties to even, in f32: Muon's iteration is defined in bfloat16.",
  notDifferentiable: "rounding is a step function",
  f16: false,
  infer(inputs) {
    if (inputs[0].dtype !== "f32") throw opError("round_bfloat16", inputs, "expected f32");
    return [{ shape: inputs[0].shape, dtype: "f32" }];
  },
  reference([x], _attrs, [y]) {
    x.data.forEach((value, i) => {
      f32Cell[0] = value;
      bitsOfCell[0] = (bitsOfCell[0] + 0x7fff + ((bitsOfCell[0] >>> 16) & 1)) & 0xffff0000;
      y.data[i] = Number.isNaN(value) ? value : f32Cell[0];
    });
  },
  file: "optim/bfloat16.wgsl",
  plan({ inputs, profile }) {
    const size = numel(inputs[0].shape);
    return { params: { size }, grid: foldGrid(Math.ceil(size / 256), profile) };
  },
  samples: () => [
    { name: "random", inputs: [{ shape: [3, 300] }], attrs: {} },
    { name: "ties", inputs: [{ shape: [4], values: [1.00390625, 1.01171875, -3.0078125, 0] }], attrs: {} },
  ],
});

/** Moves Muon's momentum buffer in place and returns the update that is to be orthogonalised. */
export function muonMomentum(
  buffer: Tensor,
  grad: Tensor,
  hyper: Tensor,
  scale: Tensor,
  nesterov = true,
): Tensor {
  return apply(momentumOp, [buffer, grad, hyper, scale], { nesterov })[0];
}

/** Weight decay and a step of lr * factor along `update`, in place. */
export function descend(param: Tensor, update: Tensor, hyper: Tensor, scale: Tensor, factor = 1): void {
  apply(descendOp, [param, update, hyper, scale], { factor });
}

/** Values rounded to bfloat16, kept in f32. */
export function roundBfloat16(x: Tensor): Tensor {
  return apply(bfloat16Op, [x], {})[0];
}
