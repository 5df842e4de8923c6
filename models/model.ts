import { checkpoint } from "../core/autograd.ts";
import { dispose } from "../core/scope.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  type ComputeDtype,
  constantInit,
  type DropoutRates,
  Module,
  normalInit,
  Parameter,
  type SequenceContext,
} from "../nn/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Adapter } from "./adapters.ts";
import { saveModel } from "./formats/save_directory.ts";

/** The sizes of any model, in the words of most config.json files. */
export interface ModelShape {
  vocab_size: number;
  hidden_size: number;
  num_hidden_layers: number;
  /** Longest sequence, in tokens. */
  max_position_embeddings: number;
  /** Standard deviation of fresh weights. */
  initializer_range: number;
}

/** A batch of token rows: inputs and, for a loss, targets. */
export interface TokenBatch extends SequenceContext {
  /** [B, T] i32. */
  tokens: Tensor;
  /** [B, T] i32, the next token at each place; -100 is not supervised. */
  targets: Tensor;
  /** u32 [4]: seeds the dropout of this pass; without it nothing is dropped. */
  dropoutKey?: Tensor | undefined;
}

/** How the tensors of a checkpoint are called where their names are not those of the model's parameters. */
export interface CheckpointNames {
  /** What checkpoints saved without the head leave out at the start of names, e.g. `model.`. */
  prefix: string;
  /** Tensors that hold no weights, such as masks and frequencies that old versions saved. */
  buffers: RegExp;
  /** Tensors that a checkpoint may hold twice: a tied one's second name, and the parameter that it equals. */
  tied: Record<string, string>;
  /** The name of today for one of an old checkpoint. */
  current?(name: string): string;
}

/** A layer of a model's stack: [..., hidden_size] to the same shape. */
export interface Block<C extends SequenceContext = SequenceContext> {
  forward(x: Tensor, context: C): Tensor;
}

/**
 * What the trainer and checkpoints need of any model. `Batch` is what its loss reads.
 * An architecture is a subclass and a row of `architectures.ts`.
 */
export abstract class Model<Batch = TokenBatch> extends Module {
  /** The checked config.json, in the architecture's own words. */
  abstract readonly config: { readonly model_type: string };
  /** The config's sizes in common words. */
  abstract readonly shape: ModelShape;
  /** The shares that training drops out. */
  abstract readonly dropoutRates: DropoutRates;
  abstract readonly checkpointNames: CheckpointNames;
  /** The model's adapters by name, the active one, and one that is merged into the matrices: see `addAdapter`. */
  readonly adapters = new Map<string, Adapter>();
  adapter: Adapter | null = null;
  merged: Adapter | null = null;

  /**
   * The sum of the losses of a batch's supervised places, in nats, as an f32 scalar; the caller divides by their number.
   * `upstream` (f32 [1]) is the derivative that will come back to it, see `linearCrossEntropy`.
   */
  abstract loss(batch: Batch, upstream?: Tensor): Tensor;

  /**
   * Gradient checkpointing (Chen et al. 2016): each block keeps its input alone, and the backward pass computes the rest of
   * it again. The same bits for less memory and about a third more time.
   */
  recompute = false;

  /** The output of all blocks for embedded tokens [..., hidden_size]; `each` sees the input of every block. */
  protected throughBlocks<C extends SequenceContext>(
    blocks: readonly Block<C>[],
    embedded: Tensor,
    context: C,
    each?: (x: Tensor) => void,
  ): Tensor {
    let x = context.dropout?.apply(embedded, "embedding") ?? embedded;
    for (const block of blocks) {
      each?.(x);
      x = this.#throughBlock(block, x, context);
    }
    return x;
  }

  /** One block's output, kept or to be computed again as `recompute` says. */
  #throughBlock<C extends SequenceContext>(block: Block<C>, x: Tensor, context: C): Tensor {
    if (!this.recompute) return block.forward(x, context);
    const { dropout } = context;
    const calls = dropout?.calls ?? 0;
    return checkpoint((input) => {
      if (dropout) dropout.calls = calls;
      return block.forward(input, context);
    }, x);
  }

  /** Writes a Hugging Face directory, all or nothing: weights, config.json, and the tokenizer. */
  savePretrained(directory: string, tokenizer: Tokenizer): Promise<void> {
    return saveModel(directory, this, tokenizer);
  }

  /** The content of a config.json that transformers loads. */
  abstract toHfConfig(): Record<string, unknown>;

  /** Further files of a model directory: name to JSON content. */
  extraFiles(): Record<string, unknown> {
    return {};
  }

  /** Frees the memory of its weights and adapters; it must not be used again. */
  dispose(): void {
    for (const adapter of this.adapters.values()) adapter.dispose();
    for (const tensor of this.stateDict().values())
      dispose([tensor, tensor instanceof Parameter ? tensor.half : null]);
  }

  /** The dtype of matrices, activations and any cache. */
  get computeDtype(): ComputeDtype {
    const matrix = this.parameters().find(({ rank }) => rank >= 2);
    return (matrix?.compute.dtype ?? "f32") as ComputeDtype;
  }

  /** The parameters that training changes, by name: all, unless an architecture holds some fixed, or the active adapter's. */
  trainedParameters(): Map<string, Parameter> {
    return this.adapter?.parameters() ?? this.namedParameters();
  }

  /** Whether training drops anything out. */
  get dropsOut(): boolean {
    const rates = [...Object.values(this.dropoutRates), this.adapter?.config.lora_dropout ?? 0];
    return rates.some((rate) => rate > 0);
  }

  /**
   * f16: passes compute with f16 copies of the matrices, while the f32 originals are trained, saved and loaded; f32:
   * without copies. f16 needs an adapter that has it, see `assertComputeDtype`.
   */
  computeIn(dtype: ComputeDtype): this {
    for (const parameter of this.parameters()) parameter.computeIn(dtype);
    for (const adapter of this.adapters.values())
      for (const parameter of adapter.parameters().values()) parameter.computeIn(dtype);
    return this;
  }

  /** Normal(0, initializer_range) weights; projections into the residual stream shrink with depth (Radford 2019). */
  init(seed: number): this {
    const { initializer_range: std, num_hidden_layers } = this.shape;
    const residualStd = std / Math.sqrt(2 * num_hidden_layers);
    for (const [name, parameter] of this.namedParameters()) {
      if (name.endsWith("bias")) constantInit(parameter, 0);
      else if (parameter.rank === 1) constantInit(parameter, 1);
      else normalInit(parameter, parameter.residual ? residualStd : std, seed, name);
    }
    return this;
  }
}
