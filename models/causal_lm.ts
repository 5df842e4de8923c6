import { persist } from "../core/device.ts";
import { type Tensor, zeros } from "../core/tensor.ts";
import {
  fusedLinear,
  indexSelect,
  linear,
  linearCrossEntropy,
  reshape,
  suitsFusion,
} from "../kernels/index.ts";
import {
  type ComputeDtype,
  constantInit,
  type DropoutRates,
  type LayerCache,
  type LayerNorm,
  Module,
  normalInit,
  type PagedContext,
  type Parameter,
  PassDropout,
  type RmsNorm,
  type SequenceContext,
} from "../nn/index.ts";

/** What training and serving need to know of a decoder's size, whatever its own config calls it. */
export interface DecoderShape {
  vocab_size: number;
  hidden_size: number;
  num_hidden_layers: number;
  /** Heads whose keys and values are kept. */
  num_key_value_heads: number;
  head_dim: number;
  /** Longest sequence, in tokens. */
  max_position_embeddings: number;
  /** Standard deviation of fresh weights. */
  initializer_range: number;
}

/** A batch of token rows: what to read and, for a loss, what to predict. */
export interface TokenBatch extends SequenceContext {
  /** [B, T] i32. */
  tokens: Tensor;
  /** [B, T] i32, the next token of each place; -100 is not supervised. */
  targets: Tensor;
  /** u32 [4]: what this pass drops out is a function of it; without it nothing is. */
  dropoutKey?: Tensor | undefined;
}

/** A block of a decoder: [..., hidden_size] to the same shape. */
export interface DecoderBlock {
  forward(x: Tensor, context: SequenceContext): Tensor;
  /** The same for the tokens of a mixed batch, each with the same bits in any batch. */
  forwardPaged(x: Tensor, cache: LayerCache, context: PagedContext): Tensor;
}

/** The matrices that write into the residual stream, in every architecture's naming. */
const residualProjection = /(o_proj|down_proj|c_proj)\.weight$/;

/**
 * A decoder with a language-model head: embedding, blocks, a norm, a matrix to logits. An architecture says what these
 * are; the passes over whole rows (training) and over a paged cache (serving) are the same for all.
 */
export abstract class CausalLM extends Module {
  abstract readonly shape: DecoderShape;
  /** What training drops out. */
  abstract readonly dropoutRates: DropoutRates;
  /** What old checkpoints leave out at the start of parameter names, e.g. `model.`. */
  abstract readonly prefix: string;
  /** [vocab_size, hidden_size]: the matrix that turns hidden states into logits. */
  abstract readonly headWeight: Parameter;
  protected abstract readonly blocks: readonly DecoderBlock[];
  /** The input of the first block, [..., hidden_size], from ids and positions [...]. */
  protected abstract embed(tokens: Tensor, positions: Tensor): Tensor;
  protected abstract readonly finalNorm: RmsNorm | LayerNorm;
  /** The content of a config.json that transformers loads. */
  abstract toHfConfig(): Record<string, unknown>;
  /** The content of a generation_config.json. */
  abstract toGenerationConfig(): Record<string, unknown>;

  /** What matrices, activations and the cache are. */
  get computeDtype(): ComputeDtype {
    return this.headWeight.compute.dtype as ComputeDtype;
  }

  /** The parameters that training changes, by name: all, unless an architecture holds some fixed. */
  trainedParameters(): Map<string, Parameter> {
    return this.namedParameters();
  }

  /**
   * f16: passes compute with f16 copies of the matrices, and the f32 ones stay what is trained, saved and loaded; f32:
   * without copies. f16 needs an adapter that has it, see `assertComputeDtype`.
   */
  computeIn(dtype: ComputeDtype): this {
    for (const parameter of this.parameters()) parameter.computeIn(dtype);
    return this;
  }

  /** Normal(0, initializer_range) weights; projections into the residual stream shrink with depth (Radford 2019). */
  init(seed: number): this {
    const { initializer_range: std, num_hidden_layers } = this.shape;
    const residualStd = std / Math.sqrt(2 * num_hidden_layers);
    for (const [name, parameter] of this.namedParameters()) {
      if (name.endsWith("bias")) constantInit(parameter, 0);
      else if (parameter.rank === 1) constantInit(parameter, 1);
      else normalInit(parameter, residualProjection.test(name) ? residualStd : std, seed, name);
    }
    return this;
  }

  /** Hidden states [B, T, hidden_size] after the final norm; `each` sees the input of every block and the result. */
  hidden(tokens: Tensor, context: SequenceContext, each?: (x: Tensor) => void): Tensor {
    const embedded = this.embed(tokens, context.positions);
    let x = context.dropout?.apply(embedded, "embedding") ?? embedded;
    for (const block of this.blocks) {
      each?.(x);
      x = block.forward(x, context);
    }
    const out = this.finalNorm.forward(x);
    each?.(out);
    return out;
  }

  /** Logits [B, T, vocab_size]: for tests and small batches; training uses `loss`, which never holds them all. */
  logits(hidden: Tensor): Tensor {
    return linear(hidden, this.headWeight.compute, null, { outDtype: "f32" });
  }

  /**
   * Sum of -log p(target) in nats over the supervised places, as an f32 scalar; dividing is the caller's business.
   * `upstream` (f32 [1]) is the derivative that will come back to it, see `linearCrossEntropy`.
   */
  loss(batch: TokenBatch, upstream?: Tensor): Tensor {
    const { dropoutKey } = batch;
    const dropout = dropoutKey && new PassDropout(dropoutKey, this.dropoutRates);
    const hidden = this.hidden(batch.tokens, { ...batch, dropout });
    const [rows, length, width] = hidden.shape as [number, number, number];
    const flat = reshape(hidden, [rows * length, width]);
    return linearCrossEntropy(flat, this.headWeight.compute, reshape(batch.targets, [rows * length]), {
      ignoreIndex: -100,
      upstream,
    }).loss;
  }

  /**
   * Logits [R, vocab_size] of the tokens numbered `rows` [R] in a mixed batch of N tokens, whose keys and values are
   * added to the cache on the way.
   */
  logitsPaged(tokens: Tensor, cache: readonly LayerCache[], context: PagedContext, rows: Tensor): Tensor {
    let x = this.embed(tokens, context.positions);
    this.blocks.forEach((block, i) => {
      x = block.forwardPaged(x, cache[i], context);
    });
    const { finalNorm } = this;
    const weight = this.headWeight.compute;
    if (suitsFusion(x.device.profile, x.shape[1]))
      return fusedLinear(x, [weight], { norm: finalNorm.norm, chosen: rows, outDtype: "f32" });
    const chosen = finalNorm.forward(indexSelect(x, 0, rows));
    return linear(chosen, weight, null, { batchInvariant: true, outDtype: "f32" });
  }

  /** Empty keys and values for `numBlocks` blocks of `blockSize` tokens. */
  newCache(numBlocks: number, blockSize: number): LayerCache[] {
    const { num_hidden_layers, num_key_value_heads, head_dim } = this.shape;
    const shape = [numBlocks, blockSize, num_key_value_heads, head_dim];
    return persist(
      Array.from({ length: num_hidden_layers }, () => ({
        key: zeros(shape, this.computeDtype),
        value: zeros(shape, this.computeDtype),
      })),
    );
  }
}
