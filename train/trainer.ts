import { grads } from "../core/autograd.ts";
import { type Compiled, compile } from "../core/compile.ts";
import { dispose, persist, scope } from "../core/device.ts";
import { seedWords } from "../core/random.ts";
import { noGrad } from "../core/tape.ts";
import { type Tensor, tensor, zeros } from "../core/tensor.ts";
import { addInto, assignInto, globalNorm, reshape } from "../kernels/index.ts";
import type { Model } from "../models/model.ts";
import type { Batch } from "./data/index.ts";
import type { Optimizer } from "./optimizers/index.ts";
import { type LossScaleOptions, LossScaler } from "./optimizers/loss_scaler.ts";

/** What an update leaves behind, still on the device: reading it waits. */
export interface StepResult {
  /** Sum of the token losses of the whole update, in nats. */
  lossSum: Tensor;
  /** Norm of the gradient of the mean loss, before clipping. */
  gradNorm: Tensor;
  /** Supervised tokens of the update: the mean loss is lossSum / supervised. */
  supervised: number;
  /** In mixed precision the loss scaler's state after the update, for `readLossScaler`. */
  scaler?: Tensor;
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
}

/**
 * Forward, backward and update, traced once and replayed. Accumulation is exact: gradients of summed token losses are
 * added up and divided once by the number of supervised tokens of all micro-batches, so cutting a batch into pieces
 * changes nothing but rounding.
 *
 * A model that computes in f16 is trained in mixed precision: derivatives are those of the mean loss times a dynamic loss
 * scale, so that they fit f16, and are added up, clipped and applied to f32 weights in f32.
 */
export class Trainer {
  readonly model: Model;
  readonly optimizer: Optimizer;
  /** What derivatives are taken by: the parameters or, in mixed precision, their f16 copies. */
  readonly #leaves: Tensor[];
  readonly #scaler: LossScaler | null;
  readonly #sequenceLength: number;
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

  constructor(model: Model, optimizer: Optimizer, options: TrainerOptions) {
    this.model = model;
    this.optimizer = optimizer;
    this.#leaves = [...model.trainedParameters().values()].map((p) => p.compute);
    const scaler = model.computeDtype === "f16" ? new LossScaler(options.lossScale) : null;
    this.#scaler = scaler;
    this.#sequenceLength = options.sequenceLength;
    const drops = Object.values(model.dropoutRates).some((rate) => rate > 0);
    this.#dropoutSeed = drops && options.dropoutSeed !== undefined ? seedWords(options.dropoutSeed) : null;
    const update = (lossSum: Tensor, gradients: Tensor[]) => {
      const { norm, scale } = globalNorm(gradients, {
        factor: scaler?.unscale() ?? this.#inverseCount,
        maxNorm: options.maxGradNorm,
      });
      optimizer.step(gradients, scale, scaler?.state);
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
  async prepare(batches: readonly Batch[]): Promise<void> {
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
  step(batches: readonly Batch[], learningRate: number): StepResult {
    const supervised = batches.reduce((sum, batch) => sum + batch.supervised, 0);
    this.#inverseCount.write([1 / Math.max(supervised, 1)]);
    this.optimizer.lr = learningRate;
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

  /** What a checkpoint must keep besides weights and the optimizer's state, by name; loading writes into them. */
  state(): ReadonlyMap<string, Tensor> {
    return new Map(this.#scaler ? [["loss_scaler", this.#scaler.state]] : []);
  }

  /** Sum of the token losses of a batch, in nats, without training on it. */
  evaluate(batch: Batch): Tensor {
    return scope(() => this.#lossOf(...this.#upload(batch)));
  }

  #loss(args: readonly Tensor[], upstream?: Tensor): Tensor {
    const [tokens, targets, positions, segments, dropoutKey] = args;
    const batch = {
      tokens: tokens!,
      targets: targets!,
      positions: positions!,
      segments: segments!,
      dropoutKey,
    };
    return this.model.loss(batch, upstream);
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
  #uploadForUpdate(batch: Batch, micro: number): Tensor[] {
    const args = this.#upload(batch);
    if (this.#dropoutSeed)
      args.push(tensor([...this.#dropoutSeed, this.optimizer.steps + 1, micro], [4], "u32"));
    return args;
  }

  #upload(batch: Batch): Tensor[] {
    const shape = [batch.tokens.length / this.#sequenceLength, this.#sequenceLength];
    return [batch.tokens, batch.targets, batch.positions, batch.segments].map((values) =>
      tensor(values, shape, "i32"),
    );
  }
}
