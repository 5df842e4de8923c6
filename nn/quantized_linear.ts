import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import {
  activate,
  add,
  assignInto,
  cast,
  copy,
  dequantize,
  type LinearOptions,
  type QuantizedMatrix,
  quantizedMatmul,
  quantizeNf4,
  toWords,
  transpose,
} from "../kernels/index.ts";
import { Conv1D, Linear } from "./layers.ts";
import { Adaptable, type ProductOptions, type Projection, project } from "./lora.ts";
import { type Parameter, withoutValues } from "./module.ts";

/**
 * y = x W^T + bias with a matrix in NF4 that stays as it is, and an adapter that may be trained on it: QLoRA (Dettmers et al.
 * 2023). The matrix takes 4.127 bits a weight on the device, and is no parameter.
 */
export class QuantizedLinear extends Adaptable implements Projection {
  readonly bias: Parameter | null;
  readonly #matrix: QuantizedMatrix;
  readonly #isLinear: boolean;

  private constructor(layer: Linear | Conv1D, weight: ArrayLike<number>) {
    super();
    const [rows, columns] = layer.features;
    const words = toWords(quantizeNf4(weight), rows * columns);
    this.#matrix = { words: persist(tensor(words, [words.length], "u32")), rows, columns };
    this.#isLinear = layer instanceof Linear;
    this.bias = layer.bias;
  }

  /** The same layer in NF4, which takes over the bias; whoever owned `layer` frees its weight. */
  static async from(layer: Linear | Conv1D): Promise<QuantizedLinear> {
    const matrix = scope(() =>
      noGrad(() => copy(layer instanceof Linear ? layer.weight : transpose(layer.weight, 0, 1))),
    );
    try {
      return new QuantizedLinear(layer, (await matrix.data()) as Float32Array);
    } finally {
      dispose(matrix);
    }
  }

  /** A floating layer with the weights as they are computed with here, which takes over the bias; this one is freed. */
  restore(): Linear | Conv1D {
    const { rows, columns } = this.#matrix;
    const layer = withoutValues(() =>
      this.#isLinear ? new Linear(columns, rows, { bias: false }) : new Conv1D(columns, rows),
    );
    scope(() =>
      noGrad(() => assignInto(layer.weight, this.#isLinear ? this.matrix() : transpose(this.matrix(), 0, 1))),
    );
    dispose([layer.bias, this.#matrix.words]);
    return Object.assign(layer, { bias: this.bias });
  }

  get features(): readonly [number, number] {
    return [this.#matrix.rows, this.#matrix.columns];
  }

  /** Computed for each call. */
  matrix(): Tensor {
    return dequantize(this.#matrix);
  }

  /** See `Projection`. */
  product(x: Tensor, bias: Tensor | null, { activation, residual, ...options }: LinearOptions): Tensor {
    const y = quantizedMatmul(x, this.#matrix, options);
    const sum = bias ? add(y, cast(bias, y.dtype)) : y;
    const active = activation ? activate(sum, activation) : sum;
    return residual ? add(active, residual) : active;
  }

  forward(x: Tensor, options: ProductOptions = {}): Tensor {
    return project(this, x, options);
  }
}
