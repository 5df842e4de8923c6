import type { Tensor } from "../../core/tensor.ts";
import { defineStep, type UpdateSlot } from "./update.ts";

export * from "./adafactor.ts";
export * from "./adam_8bit.ts";
export * from "./loss_scale.ts";
export * from "./muon.ts";
export * from "./norm.ts";
export { type Hyper, hyperNames, hyperValues } from "./shared.ts";
export type { UpdateSlot } from "./update.ts";

const adam = defineStep({
  name: "adam",
  doc: "Adam (Kingma & Ba 2015) or, decoupled, AdamW (Loshchilov & Hutter 2019).",
  file: "optim/adam.wgsl",
  states: 2,
  update(param, grad, [first, second], h, { decoupled }) {
    const g = grad + (decoupled ? 0 : h.weight_decay * param);
    const m = first + (g - first) * h.one_minus_beta1;
    const v = second * h.beta2 + h.one_minus_beta2 * g * g;
    const step = ((h.lr / h.bias1) * m) / (Math.sqrt(v) / h.root_bias2 + h.eps);
    return [param - (decoupled ? h.lr * h.weight_decay * param : 0) - step, m, v];
  },
  flags: [{ decoupled: true }, { decoupled: false }],
  hyper: { one_minus_beta1: 0.1, beta2: 0.95, one_minus_beta2: 0.05, bias1: 0.19, root_bias2: 0.3 },
});

const sgd = defineStep({
  name: "sgd",
  doc: "SGD with momentum, perhaps Nesterov's, as torch.optim.SGD.",
  file: "optim/sgd.wgsl",
  states: 1,
  update(param, grad, [buffer], h, { nesterov }) {
    const g = grad + h.weight_decay * param;
    const b = h.momentum * buffer + h.fresh * g;
    return [param - h.lr * (nesterov ? g + h.momentum * b : b), b];
  },
  flags: [{ nesterov: true }, { nesterov: false }],
  hyper: { momentum: 0.9, fresh: 0.8 },
});

const rmsprop = defineStep({
  name: "rmsprop",
  doc: "RMSprop (Hinton 2012); Adagrad (Duchi et al. 2011) where beta2 and one_minus_beta2 are both 1.",
  file: "optim/rmsprop.wgsl",
  states: 1,
  update(param, grad, [second], h) {
    const g = grad + h.weight_decay * param;
    const v = h.beta2 * second + h.one_minus_beta2 * g * g;
    return [param - (h.lr * g) / (Math.sqrt(v) + h.eps), v];
  },
  flags: [{}],
  hyper: { beta2: 0.99, one_minus_beta2: 0.01 },
});

const lion = defineStep({
  name: "lion",
  doc: "Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms) with decoupled weight decay.",
  file: "optim/lion.wgsl",
  states: 1,
  update(param, grad, [momentum], h) {
    const direction = Math.sign(h.beta1 * momentum + h.one_minus_beta1 * grad);
    const p = param - h.lr * h.weight_decay * param;
    return [p - h.lr * direction, h.beta2 * momentum + h.one_minus_beta2 * grad];
  },
  flags: [{}],
  hyper: { beta1: 0.9, one_minus_beta1: 0.1, beta2: 0.98, one_minus_beta2: 0.02 },
});

/** One step of Adam or, `decoupled`, AdamW; states are the means of gradients and of their squares. */
export function adamStep(slots: readonly UpdateSlot[], hyper: Tensor, scale: Tensor, decoupled = true): void {
  adam(slots, hyper, scale, { decoupled });
}

/** One step of SGD with momentum; the state is the momentum buffer. */
export function sgdStep(slots: readonly UpdateSlot[], hyper: Tensor, scale: Tensor, nesterov = false): void {
  sgd(slots, hyper, scale, { nesterov });
}

/** One step of RMSprop, or of Adagrad by its hyper values; the state is the mean (or sum) of squared gradients. */
export function rmspropStep(slots: readonly UpdateSlot[], hyper: Tensor, scale: Tensor): void {
  rmsprop(slots, hyper, scale, {});
}

/** One step of Lion; the state is the momentum. Reads lr, weight_decay, beta1, beta2 and 1 minus each. */
export function lionStep(slots: readonly UpdateSlot[], hyper: Tensor, scale: Tensor): void {
  lion(slots, hyper, scale, {});
}
