import { KilnError } from "../../core/errors.ts";
import type { Tensor } from "../../core/tensor.ts";
import { named, type Optimizer, type Parameters } from "./optimizer.ts";

type Make = (parameters: Parameters) => Optimizer;

/** One optimizer for the parameters that `isFirst` takes, and another one for the others. */
export class SplitOptimizer implements Optimizer {
  readonly #parts: { optimizer: Optimizer; places: number[] }[];

  constructor(parameters: Parameters, isFirst: (param: Tensor) => boolean, first: Make, second: Make) {
    const all = [...named(parameters)].map(([name, param], place) => ({ name, param, place }));
    if (all.length === 0) throw new KilnError("an optimizer needs at least one parameter");
    const groups = [
      { members: all.filter(({ param }) => isFirst(param)), make: first },
      { members: all.filter(({ param }) => !isFirst(param)), make: second },
    ];
    this.#parts = groups
      .filter(({ members }) => members.length > 0)
      .map(({ members, make }) => ({
        optimizer: make(new Map(members.map(({ name, param }) => [name, param]))),
        places: members.map(({ place }) => place),
      }));
  }

  get lr(): number {
    return this.#parts[0].optimizer.lr;
  }

  set lr(lr: number) {
    for (const { optimizer } of this.#parts) optimizer.lr = lr;
  }

  get steps(): number {
    return this.#parts[0].optimizer.steps;
  }

  set steps(steps: number) {
    for (const { optimizer } of this.#parts) optimizer.steps = steps;
  }

  step(gradients?: readonly (Tensor | null)[], scale?: Tensor, scaler?: Tensor): void {
    for (const { optimizer, places } of this.#parts) {
      const own = gradients && places.map((place) => gradients[place]);
      optimizer.step(own, scale, scaler);
    }
  }

  zeroGrad(): void {
    for (const { optimizer } of this.#parts) optimizer.zeroGrad();
  }

  state(): ReadonlyMap<string, Tensor> {
    return new Map(this.#parts.flatMap(({ optimizer }) => [...optimizer.state()]));
  }
}
