import { beforeEachRun } from "../../core/compile.ts";
import { checkOptions, describe, KilnError } from "../../core/errors.ts";
import { dispose, persist, scope } from "../../core/scope.ts";
import { contiguousStrides, type Shape, sameShape, show } from "../../core/shape.ts";
import { noGrad } from "../../core/tape.ts";
import { ones, Tensor, zeros } from "../../core/tensor.ts";
import { countApplied, type Hyper, hyperNames, hyperValues, type UpdateSlot } from "../../kernels/index.ts";
import { Parameter } from "../../nn/index.ts";

/** Tensors to train: by name, as `model.namedParameters()` gives them, or a plain list, whose names are 0, 1, ... */
export type Parameters = ReadonlyMap<string, Tensor> | Iterable<Tensor>;

/**
 * Updates parameters in place, as in PyTorch: `loss.backward(); optimizer.step(); optimizer.zeroGrad()`. A compiled step
 * takes its derivatives itself: `optimizer.step(grads(loss, parameters))`.
 */
export interface Optimizer {
  /** The learning rate of the steps to come. */
  lr: number;
  /** Steps taken, skipped ones among them; a resumed run sets it. */
  steps: number;
  /**
   * One update, by `gradients` in the order of the parameters (null leaves one as it is), or else by the `grad` of each
   * parameter that has one.
   * Gradients are multiplied by `scale` ([1]); a scale of 0 leaves everything as it is. Where steps may be skipped so,
   * `scaler`, the state of a loss scaler, says how many were not: bias corrections count those alone.
   */
  step(gradients?: readonly (Tensor | null)[], scale?: Tensor, scaler?: Tensor): void;
  /** Drops the `grad` of every parameter. */
  zeroGrad(): void;
  /** The tensors that a checkpoint must keep besides `steps`, by name; loading writes into them. */
  state(): ReadonlyMap<string, Tensor>;
}

export interface OptimizerOptions {
  /** The learning rate; `optimizer.lr` changes it. */
  lr?: number;
  /** Default 0, for AdamW 0.01 and for Muon 0.1, as in PyTorch. */
  weightDecay?: number;
  /** Which parameters are decayed; all by default. */
  decays?: (name: string, parameter: Tensor) => boolean;
}

/** A state that is u32 words of packed codes. */
interface CodedShape {
  codes: Shape;
}

/** A parameter with its optimizer states. */
interface Slot extends Omit<UpdateSlot, "grad" | "half"> {
  /** Views of the memory, one for each state. */
  states: Tensor[];
  /** The numbers of its group, in the order of `hyperNames`. */
  hyper: Tensor;
}

/** A parameter with the gradient that updates it. */
export type Update = Slot & UpdateSlot;

export function named(parameters: Parameters): ReadonlyMap<string, Tensor> {
  if (typeof (parameters as Partial<Iterable<Tensor>>)?.[Symbol.iterator] !== "function")
    throw new KilnError(
      `optimizer: expected a list of parameters such as model.parameters(), got ${describe(parameters)}`,
    );
  const all = (
    parameters instanceof Map ? [...parameters] : [...parameters].map((t, i) => [String(i), t])
  ) as [string, Tensor][];
  for (const [name, param] of all) {
    if (!(param instanceof Tensor))
      throw new KilnError(`optimizer: ${name} is ${describe(param)}, not a tensor`);
    if (param.node)
      throw new KilnError(
        `optimizer: ${name} was computed from other tensors, so an update would change nothing they hold; give the leaves, or detach() it`,
      );
  }
  return new Map(all);
}

function checkRate(what: string, value: number): void {
  if (value >= 0 && Number.isFinite(value)) return;
  throw new KilnError(`optimizer: ${what} is ${describe(value)}; expected a number of 0 or more`);
}

/** What all optimizers share: f32 states, one tensor of hyperparameters for each weight decay, and the counting of steps. */
export abstract class BaseOptimizer<O extends OptimizerOptions> implements Optimizer {
  lr: number;
  steps = 0;
  protected readonly options: O;
  /** Whether `update` rewrites the f16 copies of parameters itself, as multi-tensor kernels do. */
  protected readonly writesHalves: boolean = true;
  readonly #slots: Slot[] = [];
  readonly #state = new Map<string, Tensor>();
  readonly #groups = new Map<number, Tensor>();
  readonly #unit: Tensor;

  /**
   * `states`: names of the states of a parameter; a function gives those of other shapes than the parameter's. `own`: the
   * options that this optimizer has besides `OptimizerOptions`.
   */
  constructor(
    parameters: Parameters,
    options: O & { lr: number },
    states: readonly string[] | ((shape: Shape) => Record<string, Shape | CodedShape>),
    own: readonly string[] = [],
  ) {
    const given = checkOptions("optimizer", options, ["lr", "weightDecay", "decays", ...own]);
    const { lr, weightDecay = 0, decays = () => true } = given;
    checkRate("lr", lr);
    checkRate("weightDecay", weightDecay);
    this.lr = lr;
    this.options = options;
    const names = typeof states === "function" ? [] : states;
    const all = named(parameters);
    const first = all.values().next().value;
    if (!first) throw new KilnError("an optimizer needs at least one parameter");
    this.#unit = persist(ones([1], "f32", first.device));
    for (const [name, param] of all) {
      const { shape, size, device } = param;
      const shapes = typeof states === "function" ? states(shape) : {};
      const memory = persist(zeros([names.length, ...shape], "f32", device));
      const kept = [
        ...names.map(
          (state, i) => [state, memory.asStrided(shape, contiguousStrides(shape), i * size)] as const,
        ),
        ...Object.entries(shapes).map(([state, own]) => {
          const [dtype, extents] = "codes" in own ? (["u32", own.codes] as const) : (["f32", own] as const);
          return [state, persist(zeros(extents, dtype, device))] as const;
        }),
      ];
      for (const [state, tensor] of kept) this.#state.set(`${state}.${name}`, tensor);
      const hyper = this.#group(decays(name, param) ? weightDecay : 0, param);
      this.#slots.push({ param, memory, states: kept.map(([, tensor]) => tensor), hyper });
    }
  }

  #group(decay: number, { device }: Tensor): Tensor {
    const hyper = this.#groups.get(decay) ?? persist(zeros([hyperNames.length], "f32", device));
    this.#groups.set(decay, hyper);
    return hyper;
  }

  step(gradients: readonly (Tensor | null)[] = this.#grads(), scale = this.#unit, scaler?: Tensor): void {
    if (gradients.length !== this.#slots.length) {
      throw new KilnError(`optimizer: ${gradients.length} gradients for ${this.#slots.length} parameters`);
    }
    beforeEachRun(() => this.#count());
    const updates = this.#slots.flatMap((slot, i): Update[] => {
      const grad = gradients[i];
      if (grad && !sameShape(grad.shape, slot.param.shape))
        throw new KilnError(
          `optimizer: gradient ${i} is ${show(grad.shape)}, but its parameter is ${show(slot.param.shape)}`,
        );
      const half = slot.param instanceof Parameter ? slot.param.half : null;
      return grad ? [{ ...slot, grad, half }] : [];
    });
    const work = () => {
      if (scaler) for (const hyper of this.#groups.values()) countApplied(hyper, scaler);
      for (const hyper of this.#groups.values()) {
        const group = updates.filter((update) => update.hyper === hyper);
        if (group.length > 0) this.update(group, hyper, scale);
      }
      if (this.writesHalves) return;
      for (const { param } of updates) if (param instanceof Parameter) param.refresh();
    };
    noGrad(() => scope(work));
  }

  /** Counts a step and writes what changes from step to step to the device. */
  #count(): void {
    checkRate("lr", this.lr);
    this.steps++;
    for (const [decay, hyper] of this.#groups) {
      hyper.write(hyperValues({ ...this.hyper(this.lr, this.steps), weight_decay: decay }));
    }
  }

  /** The gradients that `backward()` left; null where a loss did not depend on the parameter. */
  #grads(): readonly (Tensor | null)[] {
    const gradients = this.#slots.map(({ param }) => leafOf(param).grad);
    if (gradients.some((gradient) => gradient)) return gradients;
    throw new KilnError(
      "optimizer: no parameter has a gradient; call loss.backward() first, or give step() gradients",
    );
  }

  zeroGrad(): void {
    for (const { param } of this.#slots) {
      const leaf = leafOf(param);
      dispose(leaf.grad);
      leaf.grad = null;
    }
  }

  state(): ReadonlyMap<string, Tensor> {
    return this.#state;
  }

  /** The numbers of a step (from 1 on), in float64: what is not named is 0 or, for a correction, 1. */
  protected abstract hyper(lr: number, step: number): Partial<Hyper>;
  /** Updates parameters that share `hyper`. */
  protected abstract update(updates: readonly Update[], hyper: Tensor, scale: Tensor): void;
}

/** The tensor to differentiate with respect to: the parameter or, in mixed precision, its f16 copy. */
function leafOf(param: Tensor): Tensor {
  return param instanceof Parameter ? param.compute : param;
}
