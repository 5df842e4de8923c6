import { checkOptions, KilnError } from "../core/errors.ts";
import { opError } from "../core/op.ts";
import { noGrad } from "../core/tape.ts";
import { ones, type Tensor, zeros } from "../core/tensor.ts";
import {
  add,
  addInto,
  assignInto,
  cast,
  lerp,
  mean,
  mul,
  reciprocal,
  reshape,
  rsqrt,
  square,
  sub,
} from "../kernels/index.ts";
import { Buffer, Module, Parameter } from "./module.ts";

export interface BatchNormOptions {
  /** Added to the variance; 1e-5 by default. */
  eps?: number;
  /** The weight of a new batch in the running statistics, 0.1 by default; null makes them the mean of all batches. */
  momentum?: number | null;
  /** Whether there are a weight and a bias; true by default. */
  affine?: boolean;
  /** Whether there are running statistics; without them every batch is normalised by its own. */
  trackRunningStats?: boolean;
}

/** x scaled to mean 0 and variance 1 over `dims`, in f32, and its statistics, in which those axes have extent 1. */
function standardise(x: Tensor, dims: readonly number[], eps: number) {
  const average = mean(x, dims, true);
  const centred = sub(x, average);
  const variance = mean(square(centred), dims, true);
  return { y: mul(centred, rsqrt(add(variance, eps))), average, variance };
}

/** y * weight + bias with one of each per channel of y [N, C, ...], or y itself without them. */
function affine(y: Tensor, weight: Tensor | null, bias: Tensor | null): Tensor {
  if (!weight || !bias) return y;
  const shape = [weight.size, ...y.shape.slice(2).fill(1)];
  return add(mul(y, reshape(weight, shape)), reshape(bias, shape));
}

/**
 * Normalises each channel over the batch (Ioffe & Szegedy 2015). Training uses the batch's own statistics and moves the
 * running ones towards them; after `eval()` the running ones are used. They are tensors that are updated in place, so that
 * compiled steps update them too.
 */
class BatchNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly runningMean: Buffer | null;
  readonly runningVar: Buffer | null;
  readonly numBatchesTracked: Buffer | null;
  readonly #ranks: readonly number[];
  readonly #eps: number;
  readonly #momentum: number | null;

  constructor(features: number, ranks: readonly number[], options: BatchNormOptions) {
    super();
    const known = ["eps", "momentum", "affine", "trackRunningStats"];
    const given = checkOptions("batchNorm", options, known);
    const { eps = 1e-5, momentum = 0.1, affine: scaled = true, trackRunningStats = true } = given;
    this.weight = scaled ? Parameter.make([features], ones) : null;
    this.bias = scaled ? Parameter.make([features], zeros) : null;
    this.runningMean = trackRunningStats ? Buffer.make([features], zeros) : null;
    this.runningVar = trackRunningStats ? Buffer.make([features], ones) : null;
    this.numBatchesTracked = trackRunningStats ? Buffer.make([], zeros) : null;
    this.#ranks = ranks;
    this.#eps = eps;
    this.#momentum = momentum;
  }

  /** x [N, C, ...], normalised over every axis but the second. */
  forward(x: Tensor): Tensor {
    const { runningMean, runningVar } = this;
    if (!this.#ranks.includes(x.rank))
      throw opError("batchNorm", [x], `expected a tensor of rank ${this.#ranks.join(" or ")}, [N, C, ...]`);
    const wide = cast(x, "f32");
    const own = this.training || !runningMean || !runningVar;
    const normal = own ? this.#byBatch(wide) : byStatistics(wide, runningMean, runningVar, this.#eps);
    return cast(affine(normal, this.weight, this.bias), x.dtype);
  }

  #byBatch(x: Tensor): Tensor {
    const count = x.size / x.shape[1];
    if (count < 2)
      throw new KilnError(
        `batchNorm: ${x} has ${count} value for each channel; training needs two or more, or call eval()`,
      );
    const dims = x.shape.map((_, i) => i).filter((i) => i !== 1);
    const { y, average, variance } = standardise(x, dims, this.#eps);
    if (this.training) noGrad(() => this.#follow(average, mul(variance, count / (count - 1))));
    return y;
  }

  /** Moves the running statistics towards those of a batch. */
  #follow(average: Tensor, variance: Tensor): void {
    const { runningMean, runningVar, numBatchesTracked } = this;
    if (!runningMean || !runningVar || !numBatchesTracked) return;
    addInto(numBatchesTracked, ones([]));
    const share = this.#momentum ?? reciprocal(numBatchesTracked);
    const update = (running: Tensor, batch: Tensor) =>
      assignInto(running, lerp(running, reshape(batch, running.shape), share));
    update(runningMean, average);
    update(runningVar, variance);
  }
}

function byStatistics(x: Tensor, average: Tensor, variance: Tensor, eps: number): Tensor {
  const shape = [x.shape[1], ...x.shape.slice(2).fill(1)];
  return mul(sub(x, reshape(average, shape)), rsqrt(add(reshape(variance, shape), eps)));
}

/** torch.nn.BatchNorm1d for [N, C] and [N, C, L]; see BatchNormOptions. */
export class BatchNorm1d extends BatchNorm {
  constructor(numFeatures: number, options: BatchNormOptions = {}) {
    super(numFeatures, [2, 3], options);
  }
}

/** torch.nn.BatchNorm2d for [N, C, H, W]; see BatchNormOptions. */
export class BatchNorm2d extends BatchNorm {
  constructor(numFeatures: number, options: BatchNormOptions = {}) {
    super(numFeatures, [4], options);
  }
}

/** torch.nn.GroupNorm: normalises each of `numGroups` groups of channels of x [N, C, ...] by itself (Wu & He 2018). */
export class GroupNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly #groups: number;
  readonly #eps: number;

  constructor(numGroups: number, numChannels: number, options: { eps?: number; affine?: boolean } = {}) {
    super();
    const { eps = 1e-5, affine: scaled = true } = checkOptions("GroupNorm", options, ["eps", "affine"]);
    if (numChannels % numGroups !== 0)
      throw new KilnError(`GroupNorm: ${numChannels} channels do not make ${numGroups} equal groups`);
    this.weight = scaled ? Parameter.make([numChannels], ones) : null;
    this.bias = scaled ? Parameter.make([numChannels], zeros) : null;
    this.#groups = numGroups;
    this.#eps = eps;
  }

  forward(x: Tensor): Tensor {
    if (x.rank < 2 || x.shape[1] % this.#groups !== 0)
      throw opError("groupNorm", [x], `expected [N, C, ...] with C a multiple of ${this.#groups} groups`);
    const groups = reshape(cast(x, "f32"), [x.shape[0], this.#groups, -1]);
    const y = reshape(standardise(groups, [2], this.#eps).y, x.shape);
    return cast(affine(y, this.weight, this.bias), x.dtype);
  }
}
