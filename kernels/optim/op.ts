import { defineOp, opError } from "../../core/op.ts";
import { numel } from "../../core/shape.ts";
import { apply, type Tensor } from "../../core/tensor.ts";
import { foldGrid } from "../include/grid.ts";
import { check, everyStep, hyperNames, noGradient, samples, variants } from "./shared.ts";

export * from "./adam.ts";
export * from "./loss_scale.ts";
export { type Hyper, hyperNames, hyperValues } from "./shared.ts";

const sgdOp = defineOp<{ nesterov: boolean }>({
  name: "sgd",
  doc: `One step of SGD with momentum, perhaps Nesterov's: (param, grad, buffer, hyper, scale), in place. ${everyStep} As torch.optim.SGD.`,
  ...noGradient,
  mutates: [0, 2],
  infer(inputs) {
    check("sgd", inputs, 1);
    return [];
  },
  reference([param, grad, buffer, hyper, scale], { nesterov }) {
    const [lr, , , , , , decay, , , momentum, fresh] = hyper.data;
    if (scale.data[0] === 0) return;
    for (let i = 0; i < param.data.length; i++) {
      const g = grad.data[i] * scale.data[0] + decay * param.data[i];
      buffer.data[i] = momentum * buffer.data[i] + fresh * g;
      param.data[i] -= lr * (nesterov ? g + momentum * buffer.data[i] : buffer.data[i]);
    }
  },
  variants: variants("optim/sgd.wgsl", ({ nesterov }) => ({ NESTEROV: nesterov })),
  samples: () => samples(1, [{ nesterov: true }, { nesterov: false }], { momentum: 0.9, fresh: 0.8 }),
});

const rmspropOp = defineOp<Record<string, never>>({
  name: "rmsprop",
  doc: `One step of RMSprop: (param, grad, second, hyper, scale), in place; Adagrad where beta2 and one_minus_beta2 are both 1. ${everyStep} Hinton 2012; Duchi et al. 2011.`,
  ...noGradient,
  mutates: [0, 2],
  infer(inputs) {
    check("rmsprop", inputs, 1);
    return [];
  },
  reference([param, grad, second, hyper, scale]) {
    const [lr, , , beta2, fresh2, eps, decay] = hyper.data;
    if (scale.data[0] === 0) return;
    for (let i = 0; i < param.data.length; i++) {
      const g = grad.data[i] * scale.data[0] + decay * param.data[i];
      second.data[i] = beta2 * second.data[i] + fresh2 * g * g;
      param.data[i] -= (lr * g) / (Math.sqrt(second.data[i]) + eps);
    }
  },
  variants: variants("optim/rmsprop.wgsl", () => ({})),
  samples: () => samples(1, [{}], { beta2: 0.99, one_minus_beta2: 0.01 }),
});

const momentumOp = defineOp<{ nesterov: boolean }>({
  name: "muon_momentum",
  doc: `Muon's momentum: (buffer, grad, hyper, scale) -> update; the buffer moves by 1 - momentum towards the gradient, in place. ${everyStep}`,
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    check("muon_momentum", inputs, 0);
    return [{ shape: inputs[0].shape, dtype: "f32" }];
  },
  reference([buffer, grad, hyper, scale], { nesterov }, [update]) {
    const momentum = hyper.data[hyperNames.indexOf("momentum")];
    if (scale.data[0] === 0) return;
    for (let i = 0; i < buffer.data.length; i++) {
      const g = grad.data[i] * scale.data[0];
      buffer.data[i] += (g - buffer.data[i]) * (1 - momentum);
      update.data[i] = nesterov ? g + (buffer.data[i] - g) * momentum : buffer.data[i];
    }
  },
  variants: variants("optim/momentum.wgsl", ({ nesterov }) => ({ NESTEROV: nesterov })),
  samples: () => samples(0, [{ nesterov: true }, { nesterov: false }], { momentum: 0.9 }),
});

const descendOp = defineOp<{ factor: number }>({
  name: "descend",
  doc: `param = param * (1 - lr * weight_decay) - lr * factor * update: (param, update, hyper, scale), in place. ${everyStep}`,
  ...noGradient,
  mutates: [0],
  infer(inputs) {
    check("descend", inputs, 0);
    return [];
  },
  reference([param, update, hyper, scale], { factor }) {
    const [lr, , , , , , decay] = hyper.data;
    if (scale.data[0] === 0) return;
    for (let i = 0; i < param.data.length; i++) {
      param.data[i] -= lr * (decay * param.data[i] + factor * update.data[i]);
    }
  },
  variants: variants(
    "optim/descend.wgsl",
    () => ({}),
    ({ factor }) => factor,
  ),
  samples: () => samples(0, [{ factor: 1.5 }], {}),
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
  variants: [
    {
      name: "plain",
      file: "optim/bfloat16.wgsl",
      plan({ inputs, profile }) {
        const size = numel(inputs[0].shape);
        return { params: { size }, grid: foldGrid(Math.ceil(size / 256), profile) };
      },
    },
  ],
  samples: () => [
    { name: "random", inputs: [{ shape: [3, 300] }], attrs: {} },
    { name: "ties", inputs: [{ shape: [4], values: [1.00390625, 1.01171875, -3.0078125, 0] }], attrs: {} },
  ],
});

/** One step of SGD with momentum on one parameter, in place. */
export function sgdStep(
  param: Tensor,
  grad: Tensor,
  buffer: Tensor,
  hyper: Tensor,
  scale: Tensor,
  nesterov = false,
): void {
  apply(sgdOp, [param, grad, buffer, hyper, scale], { nesterov });
}

/** One step of RMSprop, or Adagrad by its hyper values, on one parameter, in place. */
export function rmspropStep(param: Tensor, grad: Tensor, second: Tensor, hyper: Tensor, scale: Tensor): void {
  apply(rmspropOp, [param, grad, second, hyper, scale], {});
}

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
