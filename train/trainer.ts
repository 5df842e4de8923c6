import { grads } from "../core/autograd.ts";
import { type Compiled, compile } from "../core/compile.ts";
import { KilnError } from "../core/errors.ts";
import { seedWords } from "../core/random.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import { addInto, assignInto, globalNorm, reshape } from "../kernels/index.ts";
import type { Model, TokenBatch } from "../models/model.ts";
import type { Batch } from "./data/index.ts";
import type { Optimizer } from "./optimizers/index.ts";
import { type LossScaleOptions, LossScaler } from "./optimizers/loss_scaler.ts";
import { WeightAverage } from "./optimizers/weight_average.ts";

/** The numbers of an update, still on the device: reading them waits for it. */
export interface StepResult {
  /** Sum of the losses of the whole update; of a language model in nats. */
  lossSum: Tensor;
  /** Norm of the gradient of the mean loss, before clipping. */
  gradNorm: Tensor;
  /** Supervised places (tokens, examples) of the update: the mean loss is lossSum / supervised. */
  supervised: number;
  /** In mixed precision the loss scaler's state after the update, for `readLossScaler`. */
  scaler?: Tensor;
}

/** How host batches become a loss. Without one, packed token rows (`Batch`) meet the model's own loss. */
export interface Objective<B, I extends object = TokenBatch> {
  /** A batch on the device: tensors by name, with the same names, dtypes and shapes every time. */
  upload(batch: B): I;
  /**
   * The sum of the losses of a batch, f32 []. `upstream` ([1]) is the derivative that will come back to it, for
   * `Model.loss`; in training, `inputs.dropoutKey` seeds the masks of dropout.
   */
  loss(inputs: I, upstream?: Tensor): Tensor;
}

type UpdateResult = Omit<StepResult, "supervised">;

export interface TrainerOptions {
  /** Gradients are scaled down to this global norm; 0 leaves them. */
  maxGradNorm: number;
  /** Tokens of a row. */
  sequenceLength: number;
  /** Of the masks of dropout, for a model that has it; absent: nothing is dropped out. */
  dropoutSeed?: number | undefined;
  /** For models that compute in f16. */
  lossScale?: LossScaleOptions | undefined;
  /** Of an average of the weights, see `WeightAverage`; 0 or absent: none is kept. */
  averageDecay?: number | undefined;
}

/**
 * Forward, backward and update, traced once and replayed. Accumulation is exact: gradients of summed token losses are
 * added up and divided once by the number of supervised tokens of all micro-batches, so cutting a batch into pieces
 * changes nothing but rounding.
 *
 * A model that computes in f16 is trained in mixed precision: derivatives are those of the mean loss times a dynamic loss
 * scale, so that they fit f16, and are added up, clipped and applied to f32 weights in f32.
 */
export class Trainer<B extends { supervised: number } = Batch, I extends object = TokenBatch> {
  readonly model: Model<never>;
  readonly optimizer: Optimizer;
  /** Tensors to differentiate with respect to: the parameters or, in mixed precision, their f16 copies. */
  readonly #leaves: Tensor[];
  readonly #scaler: LossScaler | null;
  readonly #average: WeightAverage | null;
  readonly #objective: Objective<B, I>;
  /** Names of the inputs, in the order in which compiled steps take them. */
  #names: readonly string[] = [];
  readonly #dropoutSeed: readonly [number, number] | null;
  /** [1]: 1 / supervised tokens of the update. */
  readonly #inverseCount = persist(tensor([1]));
  /** Sums over micro-batches; made when an update first has more than one. */
  #sums: { loss: Tensor; gradients: Tensor[] } | null = null;
  readonly #whole: Compiled<Tensor[], UpdateResult>;
  readonly #first: Compiled<Tensor[], void>;
  readonly #more: Compiled<Tensor[], void>;
  readonly #finish: Compiled<[], UpdateResult>;
  readonly #lossOf: (...args: Tensor[]) => Tensor;

  constructor(
    model: Model<never>,
    optimizer: Optimizer,
    options: TrainerOptions,
    objective?: Objective<B, I>,
  ) {
    this.model = model;
    this.optimizer = optimizer;
    this.#leaves = [...model.trainedParameters().values()].map((p) => p.compute);
    const scaler = model.computeDtype === "f16" ? new LossScaler(options.lossScale) : null;
    this.#scaler = scaler;
    const { averageDecay: decay = 0 } = options;
    const average = decay > 0 ? new WeightAverage(model.trainedParameters(), decay) : null;
    this.#average = average;
    this.#objective = objective ?? (tokenRows(model, options.sequenceLength) as unknown as Objective<B, I>);
    this.#dropoutSeed =
      model.dropsOut && options.dropoutSeed !== undefined ? seedWords(options.dropoutSeed) : null;
    const update = (lossSum: Tensor, gradients: Tensor[]) => {
      const { norm, scale } = globalNorm(gradients, {
        factor: scaler?.unscale() ?? this.#inverseCount,
        maxNorm: options.maxGradNorm,
      });
      optimizer.step(gradients, scale, scaler?.state);
      average?.update();
      if (!scaler) return { lossSum, gradNorm: norm };
      scaler.update(scale);
      return { lossSum, gradNorm: norm, scaler: scaler.snapshot() };
    };
    this.#whole = compile((...batch: Tensor[]) => {
      const { lossSum, gradients } = this.#differentiate(batch);
      return noGrad(() => update(lossSum, gradients));
    });
    this.#first = compile((...batch: Tensor[]) => this.#accumulate(batch, assignInto));
    this.#more = compile((...batch: Tensor[]) => this.#accumulate(batch, addInto));
    this.#finish = compile(() => noGrad(() => update(this.#sums!.loss, this.#sums!.gradients)));
    this.#lossOf = compile((...batch: Tensor[]) => noGrad(() => this.#loss(batch)));
  }

  /** Compiles what an update from such micro-batches needs, side by side, so that the first is as quick as the others. */
  async prepare(batches: readonly B[]): Promise<void> {
    const args = scope(() => this.#uploadForUpdate(batches[0], 0));
    try {
      if (batches.length === 1) return await this.#whole.prepare(...args);
      this.#makeSums();
      // Together: their kernels are compiled side by side.
      await Promise.all([this.#first.prepare(...args), this.#more.prepare(...args), this.#finish.prepare()]);
    } finally {
      dispose(args);
    }
  }

  #makeSums(): { loss: Tensor; gradients: Tensor[] } {
    this.#sums ??= persist({ loss: zeros([]), gradients: this.#leaves.map((p) => zeros(p.shape)) });
    return this.#sums;
  }

  /** One update from one or more micro-batches of one shape. */
  step(batches: readonly B[], learningRate: number): StepResult {
    const supervised = batches.reduce((sum, batch) => sum + batch.supervised, 0);
    this.#inverseCount.write([1 / Math.max(supervised, 1)]);
    this.optimizer.lr = learningRate;
    this.#average?.count(this.optimizer.steps);
    return scope(() => {
      if (batches.length === 1)
        return { ...this.#whole(...this.#uploadForUpdate(batches[0], 0)), supervised };
      this.#makeSums();
      batches.forEach((batch, i) => {
        scope(() => (i === 0 ? this.#first : this.#more)(...this.#uploadForUpdate(batch, i)));
      });
      return { ...this.#finish(), supervised };
    });
  }

  /** What a checkpoint must keep besides weights and `optimizer.steps`, by name. */
  state(): ReadonlyMap<string, Tensor> {
    const own = this.#scaler ? ([[scalerName, this.#scaler.state]] as const) : [];
    return new Map([...this.optimizer.state(), ...own, ...(this.#average?.state() ?? [])]);
  }

  /** Puts a saved state back. Throws a KilnError for a tensor that `values` does not have. */
  restore(steps: number, values: (name: string) => ArrayLike<number> | undefined): void {
    this.#average?.restart();
    for (const [name, tensor] of this.state()) {
      const saved = values(name);
      // A run that turns to f16 starts with a fresh loss scale, and one that starts to average with its weights.
      if (!saved && (name === scalerName || this.#average?.state().has(name))) continue;
      if (!saved) throw new KilnError(`the checkpoint has no ${name}; it does not fit this run`);
      tensor.write(saved);
    }
    this.optimizer.steps = steps;
  }

  /** Runs `body` with the averaged weights in the model, where there are any. */
  averaged<T>(body: () => Promise<T>): Promise<T> {
    return this.#average ? this.#average.during(body) : body();
  }

  /** The sum of the losses of a batch, without training on it. */
  evaluate(batch: B): Tensor {
    return scope(() => this.#lossOf(...this.#upload(batch)));
  }

  #loss(args: readonly Tensor[], upstream?: Tensor): Tensor {
    const inputs = Object.fromEntries(args.map((tensor, i) => [this.#names[i] ?? "dropoutKey", tensor]));
    return this.#objective.loss(inputs as I, upstream);
  }

  #differentiate(batch: readonly Tensor[]): { lossSum: Tensor; gradients: Tensor[] } {
    const upstream = noGrad(() => this.#scaler?.upstream(this.#inverseCount));
    const lossSum = this.#loss(batch, upstream);
    const found = grads(lossSum, this.#leaves, upstream ? { cotangents: [reshape(upstream, [])] } : {});
    return { lossSum, gradients: found.map((g, i) => g ?? zeros(this.#leaves[i].shape)) };
  }

  #accumulate(batch: readonly Tensor[], into: (target: Tensor, source: Tensor) => void): void {
    const { lossSum, gradients } = this.#differentiate(batch);
    into(this.#sums!.loss, lossSum);
    gradients.forEach((g, i) => {
      into(this.#sums!.gradients[i], g);
    });
  }

  /** With a key for the masks where there are any: a tensor, since numbers are frozen in a compiled step. */
  #uploadForUpdate(batch: B, micro: number): Tensor[] {
    const args = this.#upload(batch);
    if (this.#dropoutSeed)
      args.push(tensor([...this.#dropoutSeed, this.optimizer.steps + 1, micro], [4], "u32"));
    return args;
  }

  #upload(batch: B): Tensor[] {
    const inputs = this.#objective.upload(batch);
    this.#names = Object.keys(inputs);
    return Object.values(inputs);
  }
}

const scalerName = "loss_scaler";

/** Rows of `length` tokens on the device. */
export function uploadTokens({ tokens, targets, positions, segments }: Batch, length: number): TokenBatch {
  const column = (values: Int32Array) => tensor(values, [values.length / length, length], "i32");
  return {
    tokens: column(tokens),
    targets: column(targets),
    positions: column(positions),
    segments: column(segments),
  };
}

/** The objective of packed rows of `length` tokens: the model's own loss. */
const tokenRows = (model: Model<TokenBatch>, length: number): Objective<Batch> => ({
  upload: (batch) => uploadTokens(batch, length),
  loss: (inputs, upstream) => model.loss(inputs, upstream),
});
