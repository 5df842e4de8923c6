import { persist } from "../../core/device.ts";
import { KilnError } from "../../core/errors.ts";
import { contiguousStrides } from "../../core/shape.ts";
import { noGrad } from "../../core/tape.ts";
import { ones, type Tensor, zeros } from "../../core/tensor.ts";
import {
  type AdamSlot,
  add,
  countApplied,
  descend,
  div,
  globalNorm,
  type Hyper,
  hyperNames,
  hyperValues,
  matmul,
  maximum,
  mul,
  multiAdamStep,
  muonMomentum,
  rmspropStep,
  roundBfloat16,
  sgdStep,
  sqrt,
  square,
  sum,
  transpose,
} from "../../kernels/index.ts";
import { Parameter } from "../../nn/index.ts";

/** Updates parameters in place. A step is a write of a few numbers (`prepare`) and device work (`step`). */
export interface Optimizer {
  /** Updates prepared so far, skipped ones among them; a resumed run sets it. */
  steps: number;
  /** Counts a step and writes everything that changes from step to step to the device. Outside compiled steps. */
  prepare(learningRate: number): void;
  /**
   * Records the update: gradients in the order of the parameters, each multiplied by `scale` (one element; a scale
   * of 0 leaves everything as it is). May be part of a compiled step. Where steps may be skipped, the state of a loss
   * scaler says how many were not: bias corrections go by those.
   */
  step(gradients: readonly Tensor[], scale?: Tensor, scaler?: Tensor): void;
  /** The tensors that a checkpoint must keep besides `steps`, by name; loading writes into them. */
  state(): ReadonlyMap<string, Tensor>;
}

export interface OptimizerOptions {
  weightDecay?: number;
  /** Which parameters are decayed; all when absent. */
  decays?: (name: string, parameter: Tensor) => boolean;
}

/** A parameter with what its optimizer keeps of it. */
interface Slot {
  parameter: Tensor;
  /** All states in one tensor, [states, ...parameter]. */
  memory: Tensor;
  /** Views of `memory`, one for each state. */
  states: Tensor[];
  hyper: Tensor;
}

/** A parameter that is to be updated by its gradient. */
interface Update extends Slot {
  gradient: Tensor;
}

/** What all optimizers share: f32 states of a parameter's shape, and one hyper tensor for each weight decay. */
abstract class SlotOptimizer implements Optimizer {
  steps = 0;
  /** Whether `update` rewrites the f16 copies of parameters itself. */
  protected readonly writesHalves: boolean = false;
  readonly #slots: Slot[] = [];
  readonly #named = new Map<string, Tensor>();
  readonly #groups = new Map<number, Tensor>();
  readonly #unit: Tensor;

  constructor(
    parameters: ReadonlyMap<string, Tensor>,
    stateNames: readonly string[],
    options: OptimizerOptions,
  ) {
    const first = parameters.values().next().value;
    if (!first) throw new KilnError("an optimizer needs at least one parameter");
    this.#unit = persist(ones([1], "f32", first.device));
    for (const [name, parameter] of parameters) {
      const decay = (options.decays?.(name, parameter) ?? true) ? (options.weightDecay ?? 0) : 0;
      const { shape, size, device } = parameter;
      const memory = persist(zeros([stateNames.length, ...shape], "f32", device));
      const states = stateNames.map((state, i) => {
        const view = memory.asStrided(shape, contiguousStrides(shape), i * size);
        this.#named.set(`${state}.${name}`, view);
        return view;
      });
      this.#slots.push({ parameter, memory, states, hyper: this.#group(decay, parameter) });
    }
  }

  #group(decay: number, { device }: Tensor): Tensor {
    const hyper = this.#groups.get(decay) ?? persist(zeros([hyperNames.length], "f32", device));
    this.#groups.set(decay, hyper);
    return hyper;
  }

  prepare(learningRate: number): void {
    this.steps++;
    for (const [decay, hyper] of this.#groups) {
      hyper.write(hyperValues({ ...this.hyper(learningRate, this.steps), weight_decay: decay }));
    }
  }

  step(gradients: readonly Tensor[], scale = this.#unit, scaler?: Tensor): void {
    if (gradients.length !== this.#slots.length) {
      throw new KilnError(`optimizer: ${gradients.length} gradients for ${this.#slots.length} parameters`);
    }
    const updates = this.#slots.map((slot, i) => ({ ...slot, gradient: gradients[i] }));
    noGrad(() => {
      if (scaler) for (const hyper of this.#groups.values()) countApplied(hyper, scaler);
      this.update(updates, scale);
      if (this.writesHalves) return;
      for (const { parameter } of updates) if (parameter instanceof Parameter) parameter.refresh();
    });
  }

  state(): ReadonlyMap<string, Tensor> {
    return this.#named;
  }

  protected abstract hyper(learningRate: number, step: number): Partial<Hyper>;
  protected abstract update(updates: readonly Update[], scale: Tensor): void;
}

export interface AdamOptions extends OptimizerOptions {
  betas?: readonly [number, number];
  eps?: number;
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW. */
export class AdamW extends SlotOptimizer {
  protected override readonly writesHalves = true;
  readonly #options: AdamOptions;
  readonly #decoupled: boolean;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamOptions = {}, decoupled = true) {
    super(parameters, ["exp_avg", "exp_avg_sq"], options);
    this.#options = options;
    this.#decoupled = decoupled;
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    const { betas: [beta1, beta2] = [0.9, 0.999], eps = 1e-8 } = this.#options;
    return {
      lr,
      beta1,
      one_minus_beta1: 1 - beta1,
      beta2,
      one_minus_beta2: 1 - beta2,
      eps,
      bias1: 1 - beta1 ** step,
      root_bias2: Math.sqrt(1 - beta2 ** step),
    };
  }

  protected update(updates: readonly Update[], scale: Tensor): void {
    const groups = new Map<Tensor, AdamSlot[]>();
    for (const { parameter: param, gradient: grad, memory: moments, hyper } of updates) {
      const group = groups.get(hyper) ?? [];
      group.push({ param, grad, moments, half: param instanceof Parameter ? param.half : null });
      groups.set(hyper, group);
    }
    for (const [hyper, group] of groups) multiAdamStep(group, hyper, scale, this.#decoupled);
  }
}

/** Adam (Kingma & Ba 2015), as torch.optim.Adam: weight decay is added to the gradient. */
export class Adam extends AdamW {
  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdamOptions = {}) {
    super(parameters, options, false);
  }
}

export interface SgdOptions extends OptimizerOptions {
  momentum?: number;
  dampening?: number;
  nesterov?: boolean;
}

/** Stochastic gradient descent with momentum, as torch.optim.SGD. */
export class Sgd extends SlotOptimizer {
  readonly #options: SgdOptions;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: SgdOptions = {}) {
    super(parameters, ["momentum_buffer"], options);
    this.#options = options;
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    const { momentum = 0, dampening = 0 } = this.#options;
    const later = momentum === 0 ? 1 : 1 - dampening;
    return { lr, momentum, fresh: step === 1 ? 1 : later, later_fresh: later };
  }

  protected update(updates: readonly Update[], scale: Tensor): void {
    const { nesterov = false } = this.#options;
    for (const { parameter, gradient, states, hyper } of updates)
      sgdStep(parameter, gradient, states[0], hyper, scale, nesterov);
  }
}

export interface RmspropOptions extends OptimizerOptions {
  alpha?: number;
  eps?: number;
}

/** RMSprop (Hinton 2012), as torch.optim.RMSprop without momentum. */
export class Rmsprop extends SlotOptimizer {
  readonly #options: RmspropOptions;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: RmspropOptions = {}) {
    super(parameters, ["square_avg"], options);
    this.#options = options;
  }

  protected hyper(lr: number): Partial<Hyper> {
    const { alpha = 0.99, eps = 1e-8 } = this.#options;
    return { lr, beta2: alpha, one_minus_beta2: 1 - alpha, eps };
  }

  protected update(updates: readonly Update[], scale: Tensor): void {
    for (const { parameter, gradient, states, hyper } of updates)
      rmspropStep(parameter, gradient, states[0], hyper, scale);
  }
}

export interface AdagradOptions extends OptimizerOptions {
  lrDecay?: number;
  eps?: number;
}

/** Adagrad (Duchi et al. 2011), as torch.optim.Adagrad. */
export class Adagrad extends SlotOptimizer {
  readonly #options: AdagradOptions;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: AdagradOptions = {}) {
    super(parameters, ["sum"], options);
    this.#options = options;
  }

  protected hyper(lr: number, step: number): Partial<Hyper> {
    const { lrDecay = 0, eps = 1e-10 } = this.#options;
    const decayed = { lr: lr / (1 + (step - 1) * lrDecay), base_lr: lr, lr_decay: lrDecay };
    return { ...decayed, beta2: 1, one_minus_beta2: 1, eps };
  }

  protected update(updates: readonly Update[], scale: Tensor): void {
    for (const { parameter, gradient, states, hyper } of updates)
      rmspropStep(parameter, gradient, states[0], hyper, scale);
  }
}

export interface MuonOptions extends OptimizerOptions {
  momentum?: number;
  nesterov?: boolean;
  /** Coefficients of the Newton-Schulz polynomial. */
  coefficients?: readonly [number, number, number];
  iterations?: number;
  eps?: number;
}

/**
 * Muon (Jordan et al. 2024), as torch.optim.Muon with its original learning rate adjustment: momentum, then the
 * update's nearest semi-orthogonal matrix, scaled by sqrt(max(1, rows / columns)). For matrices only.
 */
export class Muon extends SlotOptimizer {
  readonly #options: MuonOptions;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: MuonOptions = {}) {
    for (const [name, { rank }] of parameters) {
      if (rank !== 2)
        throw new KilnError(`Muon takes matrices only; ${name} has rank ${rank}: give it to AdamW`);
    }
    super(parameters, ["momentum_buffer"], { weightDecay: 0.1, ...options });
    this.#options = options;
  }

  protected hyper(lr: number): Partial<Hyper> {
    return { lr, momentum: this.#options.momentum ?? 0.95 };
  }

  protected update(updates: readonly Update[], scale: Tensor): void {
    for (const { parameter, gradient, states, hyper } of updates) {
      const moved = muonMomentum(states[0], gradient, hyper, scale, this.#options.nesterov ?? true);
      const [rows, columns] = parameter.shape;
      const factor = Math.sqrt(Math.max(1, rows / columns));
      descend(parameter, orthogonalize(moved, this.#options), hyper, scale, factor);
    }
  }
}

/**
 * The nearest semi-orthogonal matrix, nearly, by Newton-Schulz iterations whose every result is rounded to bfloat16,
 * which is how the reference defines them.
 */
function orthogonalize(update: Tensor, options: MuonOptions): Tensor {
  const { coefficients: [a, b, c] = [3.4445, -4.775, 2.0315], iterations = 5, eps = 1e-7 } = options;
  const tall = update.shape[0] > update.shape[1];
  const start = roundBfloat16(tall ? transpose(update) : update);
  const norm = maximum(roundBfloat16(sqrt(sum(square(start)))), eps);
  let x = roundBfloat16(div(start, norm));
  for (let i = 0; i < iterations; i++) {
    const gram = roundBfloat16(matmul(x, transpose(x)));
    const polynomial = roundBfloat16(add(mul(gram, b), matmul(gram, gram, { scale: c })));
    x = roundBfloat16(add(mul(x, a), matmul(polynomial, x)));
  }
  return tall ? transpose(x) : x;
}

/** torch.nn.utils.clip_grad_norm_ without the in-place part: the norm before clipping, and the clipped gradients. */
export function clipGradNorm(
  gradients: readonly Tensor[],
  maxNorm: number,
): { norm: Tensor; clipped: Tensor[] } {
  const { norm, scale } = globalNorm(gradients, { maxNorm });
  return { norm, clipped: gradients.map((g) => mul(g, scale)) };
}
