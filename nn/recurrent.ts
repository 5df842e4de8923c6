import { checkOptions, KilnError } from "../core/errors.ts";
import { opError } from "../core/op.ts";
import { sameShape, show } from "../core/shape.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import {
  add,
  cat,
  lerp,
  linear,
  mul,
  relu,
  reshape,
  select,
  sigmoid,
  stack,
  tanh,
  transpose,
} from "../kernels/index.ts";
import { Dropout } from "./dropout.ts";
import { drawUniform } from "./init.ts";
import { Module, Parameter } from "./module.ts";
import { equalParts } from "./parts.ts";

export interface RecurrentOptions {
  /** Layers on top of each other; 1 by default. */
  numLayers?: number;
  /** Whether the products with input and state have biases; true by default. */
  bias?: boolean;
  /** Whether sequences are [B, T, features] instead of [T, B, features]. */
  batchFirst?: boolean;
  /** The probability of dropout on the outputs of every layer but the last, in training. */
  dropout?: number;
  /** Whether a second network reads each sequence backwards; their outputs are concatenated. */
  bidirectional?: boolean;
}

/** The weights of one layer in one direction: [gates * H, I] for the input and [gates * H, H] for the state. */
interface Weights {
  input: Parameter;
  hidden: Parameter;
  inputBias: Parameter | null;
  hiddenBias: Parameter | null;
}

/** Tensors [B, H] that pass from step to step; the first one is a step's output. */
type State = readonly Tensor[];

/** One step; `gates` [B, gates * H] is the product of the input and its weights. */
type Cell = (gates: Tensor, state: State, weights: Weights) => State;

const product = (h: Tensor, { hidden, hiddenBias }: Weights, residual?: Tensor) =>
  linear(h, hidden.compute, hiddenBias, residual ? { residual } : {});

/** Layers of a cell with the parameter names of torch.nn.RNN, LSTM and GRU; values start within +-1 / sqrt(hidden size). */
class Recurrent extends Module {
  /** Applied between layers. */
  readonly dropout: Dropout;
  readonly #layers: Weights[][] = [];
  readonly #cell: Cell;
  /** The number of tensors in a state: 2 for LSTM. */
  readonly #states: number;
  readonly #hiddenSize: number;
  readonly #batchFirst: boolean;

  constructor(
    { cell, gates, states = 1 }: { cell: Cell; gates: number; states?: number },
    inputSize: number,
    hiddenSize: number,
    options: RecurrentOptions,
  ) {
    super();
    const known = ["numLayers", "bias", "batchFirst", "dropout", "bidirectional"];
    const given = checkOptions("a recurrent layer", options, known);
    const { numLayers = 1, bias = true, batchFirst = false, dropout = 0, bidirectional = false } = given;
    this.#cell = cell;
    this.#states = states;
    this.#hiddenSize = hiddenSize;
    this.#batchFirst = batchFirst;
    this.dropout = new Dropout(dropout);
    const make = (...shape: number[]) => Parameter.make(shape, drawUniform(1 / Math.sqrt(hiddenSize)));
    const rows = gates * hiddenSize;
    const directions = bidirectional ? ["", "_reverse"] : [""];
    for (let layer = 0; layer < numLayers; layer++) {
      const width = layer === 0 ? inputSize : hiddenSize * directions.length;
      this.#layers.push(
        directions.map((suffix) => {
          const weights: Weights = {
            input: make(rows, width),
            hidden: make(rows, hiddenSize),
            inputBias: bias ? make(rows) : null,
            hiddenBias: bias ? make(rows) : null,
          };
          // Parameters are found by their fields, so these have PyTorch's names.
          const { input, hidden, inputBias, hiddenBias } = weights;
          const name = (what: string) => `${what}_l${layer}${suffix}`;
          Object.assign(this, { [name("weight_ih")]: input, [name("weight_hh")]: hidden });
          if (bias) Object.assign(this, { [name("bias_ih")]: inputBias, [name("bias_hh")]: hiddenBias });
          return weights;
        }),
      );
    }
  }

  /** The outputs of the last layer at all steps, and the final states, each [layers * directions, B, H]. */
  protected run(x: Tensor, initial: readonly Tensor[] | undefined): [Tensor, Tensor[]] {
    const unbatched = x.rank === 2;
    if (!unbatched && x.rank !== 3)
      throw opError(
        this.constructor.name,
        [x],
        "expected [T, B, features], or [T, features] of one sequence",
      );
    const turn = (t: Tensor) => (this.#batchFirst ? transpose(t, 0, 1) : t);
    let output = unbatched ? reshape(x, [x.shape[0], 1, x.shape[1]]) : turn(x);
    const starts = this.#starts(output, initial, unbatched);
    const finals: State[] = [];
    for (const [layer, directions] of this.#layers.entries()) {
      if (layer > 0) output = this.dropout.forward(output);
      const input = output;
      const outputs = directions.map((weights, i) => {
        const start = starts.map((t) => select(t, 0, layer * directions.length + i));
        const { steps, state } = this.#scan(input, weights, start, i === 1);
        finals.push(state);
        return stack(steps, 0);
      });
      output = outputs.length > 1 ? cat(outputs, -1) : outputs[0];
    }
    const last = Array.from({ length: this.#states }, (_, k) => stack(finals.map((state) => state[k])));
    if (!unbatched) return [turn(output), last];
    return [reshape(output, [x.shape[0], -1]), last.map((t) => reshape(t, [t.shape[0], t.shape[2]]))];
  }

  /** Initial states [layers * directions, B, H]: the given ones, which are checked, or zeros. */
  #starts(x: Tensor, given: readonly Tensor[] | undefined, unbatched: boolean): readonly Tensor[] {
    const count = this.#layers.length * this.#layers[0].length;
    const shape = [count, x.shape[1], this.#hiddenSize];
    if (!given) return Array.from({ length: this.#states }, () => zeros(shape, x.dtype, x.device));
    const expected = unbatched ? [count, this.#hiddenSize] : shape;
    for (const t of given)
      if (!sameShape(t.shape, expected))
        throw new KilnError(
          `${this.constructor.name}: the initial state is ${show(t.shape)}; expected ${show(expected)}`,
        );
    return given.map((t) => reshape(t, shape));
  }

  /** One layer in one direction: its outputs [B, H] in the order of the sequence, and the state after the last step. */
  #scan(x: Tensor, weights: Weights, start: State, backwards: boolean) {
    const length = x.shape[0];
    const gates = linear(x, weights.input.compute, weights.inputBias);
    const shares = equalParts(gates, length, 0).map((t) => reshape(t, t.shape.slice(1)));
    const steps = new Array<Tensor>(length);
    let state = start;
    for (let i = 0; i < length; i++) {
      const t = backwards ? length - 1 - i : i;
      state = this.#cell(shares[t], state, weights);
      steps[t] = state[0];
    }
    return { steps, state };
  }
}

/** h' = act(W_ih x + b_ih + W_hh h + b_hh) (Elman 1990). */
const elman =
  (activation: (x: Tensor) => Tensor): Cell =>
  (gates, [h], weights) => [activation(product(h, weights, gates))];

/** torch.nn.RNN: x [T, B, I] to outputs [T, B, directions * H] and the last state [layers * directions, B, H]. */
export class RNN extends Recurrent {
  constructor(
    inputSize: number,
    hiddenSize: number,
    options: RecurrentOptions & { nonlinearity?: "tanh" | "relu" } = {},
  ) {
    const { nonlinearity = "tanh", ...rest } = options;
    super({ cell: elman({ tanh, relu }[nonlinearity]), gates: 1 }, inputSize, hiddenSize, rest);
  }

  forward(x: Tensor, initial?: Tensor): [output: Tensor, hidden: Tensor] {
    const [output, [hidden]] = this.run(x, initial && [initial]);
    return [output, hidden];
  }
}

/** Gates in PyTorch's order: input, forget, candidate, output (Hochreiter & Schmidhuber 1997). */
const lstmCell: Cell = (gates, [h, c], weights) => {
  const [input, forget, candidate, output] = equalParts(product(h, weights, gates), 4, 1);
  const cell = add(mul(sigmoid(forget), c), mul(sigmoid(input), tanh(candidate)));
  return [mul(sigmoid(output), tanh(cell)), cell];
};

/** torch.nn.LSTM: outputs and the last [hidden, cell] states, in the shapes of RNN. */
export class LSTM extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super({ cell: lstmCell, gates: 4, states: 2 }, inputSize, hiddenSize, options);
  }

  forward(
    x: Tensor,
    initial?: readonly [hidden: Tensor, cell: Tensor],
  ): [Tensor, [hidden: Tensor, cell: Tensor]] {
    const [output, [hidden, cell]] = this.run(x, initial);
    return [output, [hidden, cell]];
  }
}

/** Gates in PyTorch's order: reset, update, candidate; the reset gate scales the product with the state (Cho et al. 2014). */
const gruCell: Cell = (gates, [h], weights) => {
  const [resetX, updateX, candidateX] = equalParts(gates, 3, 1);
  const [resetH, updateH, candidateH] = equalParts(product(h, weights), 3, 1);
  const reset = sigmoid(add(resetX, resetH));
  const update = sigmoid(add(updateX, updateH));
  return [lerp(tanh(add(candidateX, mul(reset, candidateH))), h, update)];
};

/** torch.nn.GRU, with the shapes of RNN. */
export class GRU extends Recurrent {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super({ cell: gruCell, gates: 3 }, inputSize, hiddenSize, options);
  }

  forward(x: Tensor, initial?: Tensor): [output: Tensor, hidden: Tensor] {
    const [output, [hidden]] = this.run(x, initial && [initial]);
    return [output, hidden];
  }
}
