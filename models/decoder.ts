import { device } from "../core/device.ts";
import { persist } from "../core/scope.ts";
import { numel } from "../core/shape.ts";
import { Tensor } from "../core/tensor.ts";
import {
  cast,
  crossEntropy,
  fusedLinear,
  indexSelect,
  linear,
  linearCrossEntropy,
  overRowChunks,
  reshape,
  suitsFusion,
} from "../kernels/index.ts";
import {
  type LayerCache,
  type LayerNorm,
  type Linear,
  type PagedContext,
  type Parameter,
  PassDropout,
  type RmsNorm,
  type RunOptions,
  type SequenceContext,
} from "../nn/index.ts";
import type { SpecialTokens } from "./config.ts";
import { type Block, Model, type ModelShape, type TokenBatch } from "./model.ts";

/** The sizes that a paged cache needs besides those of any model. */
export interface DecoderShape extends ModelShape {
  /** Heads whose keys and values are kept. */
  num_key_value_heads: number;
  head_dim: number;
}

export interface DecoderBlock extends Block {
  /** `forward` for single tokens [N, hidden_size]; a token's bits do not depend on the rest of the batch. */
  forwardPaged(x: Tensor, cache: LayerCache, context: PagedContext): Tensor;
}

/**
 * A decoder with a language-model head: embedding, blocks, a norm, and a matrix to logits, which an architecture supplies.
 * The passes over whole rows (training) and over a paged cache (serving) are the same for all.
 */
export abstract class CausalLM extends Model {
  abstract override readonly config: { readonly model_type: string } & SpecialTokens;
  abstract override readonly shape: DecoderShape;
  /** [vocab_size, hidden_size]: the matrix that turns hidden states into logits. */
  abstract readonly headWeight: Parameter;
  /** Null where the head shares the embedding. */
  abstract readonly lmHead: Linear | null;
  protected abstract readonly blocks: readonly DecoderBlock[];
  protected abstract readonly finalNorm: RmsNorm | LayerNorm;
  /** The input of the first block, [..., hidden_size], from ids and positions [...]. */
  abstract embed(tokens: Tensor, positions: Tensor): Tensor;

  /** With the special tokens that generation needs. */
  override extraFiles(): Record<string, unknown> {
    const { bos_token_id, eos_token_id, pad_token_id } = this.config;
    const padding = pad_token_id === null ? {} : { pad_token_id };
    return { "generation_config.json": { bos_token_id, eos_token_id, ...padding } };
  }

  /** Hidden states [B, T, hidden_size] after the final norm; `each` sees the input of every block and the result. */
  hidden(tokens: Tensor, context: SequenceContext, each?: (x: Tensor) => void): Tensor {
    return this.hiddenFrom(this.embed(tokens, context.positions), context, each);
  }

  /** `hidden` of tokens that are embedded already, [B, T, hidden_size]. */
  hiddenFrom(embedded: Tensor, context: SequenceContext, each?: (x: Tensor) => void): Tensor {
    const out = this.finalNorm.forward(this.throughBlocks(this.blocks, embedded, context, each));
    each?.(out);
    return out;
  }

  /** Logits [B, T, vocab_size]: for tests and small batches; training uses `loss`, which never holds them all. */
  logits(hidden: Tensor, options: RunOptions = {}): Tensor {
    if (this.lmHead?.adapter) return cast(this.lmHead.forward(hidden, options), "f32");
    const { batchInvariant } = options;
    return linear(hidden, this.headWeight.compute, null, { batchInvariant, outDtype: "f32" });
  }

  /** Sum of -log p(target) over the supervised places. */
  loss(batch: TokenBatch, upstream?: Tensor): Tensor {
    const { flat, targets, dropout } = this.#rows(batch);
    // Only the plain product has a loss that needs no room for all logits.
    if (this.lmHead?.adapter)
      return crossEntropy(this.logits(flat, { dropout }), targets, { reduction: "sum" });
    return linearCrossEntropy(flat, this.headWeight.compute, targets, { ignoreIndex: -100, upstream }).loss;
  }

  /** -log p(target) at each place, f32 [B, T]; 0 where nothing is supervised. */
  tokenLosses(batch: TokenBatch): Tensor {
    const { flat, targets, dropout } = this.#rows(batch);
    const losses = (h: Tensor, t: Tensor) =>
      crossEntropy(this.logits(h, { dropout }), t, { reduction: "none" });
    const each = this.lmHead?.adapter
      ? losses(flat, targets)
      : overRowChunks([flat, targets], 4 * this.shape.vocab_size, losses);
    return reshape(each, batch.targets.shape);
  }

  /** Hidden states [B * T, hidden_size] of a batch in training, and their targets [B * T]. */
  #rows(batch: TokenBatch): { flat: Tensor; targets: Tensor; dropout: PassDropout | undefined } {
    const { dropoutKey } = batch;
    const dropout = dropoutKey && new PassDropout(dropoutKey, this.dropoutRates);
    const hidden = this.hidden(batch.tokens, { ...batch, dropout }); // [B, T, hidden]
    const rows = batch.targets.size;
    return {
      flat: reshape(hidden, [rows, hidden.size / rows]),
      targets: reshape(batch.targets, [rows]),
      dropout,
    };
  }

  /**
   * Logits [R, vocab_size] after the tokens with indices `rows` [R] in a mixed batch of N tokens; the keys and values of
   * all N are written to the cache.
   */
  logitsPaged(tokens: Tensor, cache: readonly LayerCache[], context: PagedContext, rows: Tensor): Tensor {
    let x = this.embed(tokens, context.positions); // [N, hidden]
    this.blocks.forEach((block, i) => {
      x = block.forwardPaged(x, cache[i], context);
    });
    const { finalNorm } = this;
    if (!this.lmHead?.adapter && suitsFusion(x.device.profile, x.shape[1]))
      return fusedLinear(x, [this.headWeight.compute], {
        norm: finalNorm.norm,
        chosen: rows,
        outDtype: "f32",
      });
    return this.logits(finalNorm.forward(indexSelect(x, 0, rows)), { batchInvariant: true });
  }

  /**
   * Keys and values for `numBlocks` blocks of `blockSize` tokens. Their memory is left as it is: attention reads what was
   * written for a position and nothing else, and to fill 256 MiB takes a processor most of a second.
   */
  newCache(numBlocks: number, blockSize: number): LayerCache[] {
    const { num_hidden_layers, num_key_value_heads, head_dim } = this.shape;
    const shape = [numBlocks, blockSize, num_key_value_heads, head_dim];
    const dtype = this.computeDtype;
    const room = () => new Tensor(device().allocate(dtype, numel(shape)), shape);
    const layer = () => ({ key: room(), value: room() });
    return persist(Array.from({ length: num_hidden_layers }, layer));
  }
}
