import { checkOptions, KilnError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  type AvgPoolOptions,
  avgPool2d,
  type ConvOptions,
  type ConvTransposeOptions,
  conv1d,
  conv2d,
  convTranspose2d,
  type MaxPoolOptions,
  maxPool2d,
  type PerAxis,
  perAxis,
} from "../kernels/index.ts";
import { drawUniform } from "./init.ts";
import { Module, Parameter } from "./module.ts";

type Convolve<Options> = (x: Tensor, weight: Tensor, bias: Tensor | null, options: Options) => Tensor;

/** A convolution with its parameters; all start uniform in +-1 / sqrt(fan-in), as in PyTorch. */
class Convolution<Options extends ConvOptions> extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly #options: Options;
  readonly #convolve: Convolve<Options>;

  /** The weight is [outer, inner / groups, ...sizes]; the bias, where there is one, [biases]. */
  constructor(
    convolve: Convolve<Options>,
    [outer, inner, biases]: readonly [number, number, number],
    sizes: readonly number[],
    given: Options & { bias?: boolean },
  ) {
    super();
    const { bias = true, ...options } = checkOptions("a convolution", given, convolutionOptions);
    const groups = options.groups ?? 1;
    if (outer % groups !== 0 || inner % groups !== 0)
      throw new KilnError(`a convolution of ${inner} and ${outer} channels has no ${groups} equal groups`);
    const draw = drawUniform(1 / Math.sqrt(sizes.reduce((product, size) => product * size, inner / groups)));
    this.weight = Parameter.make([outer, inner / groups, ...sizes], draw);
    this.bias = bias ? Parameter.make([biases], draw) : null;
    this.#options = options as unknown as Options;
    this.#convolve = convolve;
  }

  forward(x: Tensor): Tensor {
    return this.#convolve(x, this.weight.compute, this.bias, this.#options);
  }
}

const convolutionOptions = ["bias", "stride", "padding", "dilation", "groups", "outputPadding"];

/** torch.nn.Conv1d: x [N, in, L] to [N, out, L']; `weight` [out, in / groups, k], `bias` [out]. See `conv1d`. */
export class Conv1d extends Convolution<ConvOptions> {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: ConvOptions & { bias?: boolean } = {},
  ) {
    super(
      conv1d,
      [outChannels, inChannels, outChannels],
      perAxis("Conv1d", "kernelSize", kernelSize, 1, 1),
      options,
    );
  }
}

/** torch.nn.Conv2d: x [N, in, H, W] to [N, out, H', W']; `weight` [out, in / groups, kH, kW], `bias` [out]. See `conv2d`. */
export class Conv2d extends Convolution<ConvOptions> {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: ConvOptions & { bias?: boolean } = {},
  ) {
    super(
      conv2d,
      [outChannels, inChannels, outChannels],
      perAxis("Conv2d", "kernelSize", kernelSize, 2, 1),
      options,
    );
  }
}

/** torch.nn.ConvTranspose2d: `weight` [in, out / groups, kH, kW], `bias` [out]. See `convTranspose2d`. */
export class ConvTranspose2d extends Convolution<ConvTransposeOptions> {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: PerAxis,
    options: ConvTransposeOptions & { bias?: boolean } = {},
  ) {
    super(
      convTranspose2d,
      [inChannels, outChannels, outChannels],
      perAxis("ConvTranspose2d", "kernelSize", kernelSize, 2, 1),
      options,
    );
  }
}

/** torch.nn.MaxPool2d; see `maxPool2d`. */
export class MaxPool2d extends Module {
  readonly #settings: readonly [PerAxis, MaxPoolOptions];

  constructor(kernelSize: PerAxis, options: MaxPoolOptions = {}) {
    super();
    this.#settings = [kernelSize, options];
  }

  forward(x: Tensor): Tensor {
    return maxPool2d(x, ...this.#settings);
  }
}

/** torch.nn.AvgPool2d; see `avgPool2d`. */
export class AvgPool2d extends Module {
  readonly #settings: readonly [PerAxis, AvgPoolOptions];

  constructor(kernelSize: PerAxis, options: AvgPoolOptions = {}) {
    super();
    this.#settings = [kernelSize, options];
  }

  forward(x: Tensor): Tensor {
    return avgPool2d(x, ...this.#settings);
  }
}
