import { type Compiled, compile } from "../../core/compile.ts";
import { persist } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { assignInto, copy, lerp } from "../../kernels/index.ts";
import type { Parameter } from "../../nn/index.ts";

/**
 * An exponential moving average of weights (Polyak & Juditsky 1992): after each update, average = d average + (1 - d) weight.
 * d is min(decay, (1 + updates) / (10 + updates)), so that the first weights are soon forgotten, as TensorFlow's
 * ExponentialMovingAverage does it.
 */
export class WeightAverage {
  readonly #decay: number;
  readonly #pairs: readonly { name: string; parameter: Parameter; average: Tensor }[];
  /** [1]: 1 - d of the next update. */
  readonly #share = persist(tensor([1]));
  readonly #exchange: Compiled<[], void>;

  constructor(parameters: ReadonlyMap<string, Parameter>, decay: number) {
    this.#decay = decay;
    this.#pairs = [...parameters].map(([name, parameter]) => ({
      name: `average.${name}`,
      parameter,
      average: persist(noGrad(() => copy(parameter))),
    }));
    this.#exchange = compile(() =>
      noGrad(() => {
        for (const { parameter, average } of this.#pairs) {
          const weight = copy(parameter);
          assignInto(parameter, average);
          assignInto(average, weight);
          parameter.refresh();
        }
      }),
    );
  }

  /** Tells how many updates were made before the next one. */
  count(updates: number): void {
    this.#share.write([1 - Math.min(this.#decay, (1 + updates) / (10 + updates))]);
  }

  /** Takes the weights of an update in; part of a compiled step. */
  update(): void {
    for (const { parameter, average } of this.#pairs)
      assignInto(average, lerp(average, parameter, this.#share));
  }

  /** Runs `body` with the averages as the model's weights. */
  async during<T>(body: () => Promise<T>): Promise<T> {
    this.#exchange();
    try {
      return await body();
    } finally {
      this.#exchange();
    }
  }

  /** Forgets the past: the averages are the weights. */
  restart(): void {
    noGrad(() => {
      for (const { parameter, average } of this.#pairs) assignInto(average, parameter);
    });
  }

  /** The averages, by name. */
  state(): ReadonlyMap<string, Tensor> {
    return new Map(this.#pairs.map(({ name, average }) => [name, average]));
  }
}
