import type { Tensor } from "../../core/tensor.ts";
import { add, argmax, cast, eq, matmul, mul, ne, permute, reshape, stack, sum } from "../../kernels/index.ts";
import type { Encoder, EncoderInput } from "../../models/encoder.ts";
import { crossEntropyLoss, normalized, PassDropout, pool } from "../../nn/index.ts";

/** Columns of texts, a text a row: of the queries, and of the passages that answer them. */
type Side = "query" | "passage";
type Column = "tokens" | "positions" | "segments" | "tokenTypes";

/** G groups of N pairs on the device. */
export type PairInputs = Record<`${Side}_${Column}`, Tensor> & {
  /** f32 [G, N, N]: -1e9 where another passage of the group answers the query just as well, else 0. */
  blocked: Tensor;
  /** i32 [G * N]: the place of each query's passage in its group. */
  places: Tensor;
  dropoutKey?: Tensor;
};

/**
 * How near each query is to each passage of its group, times `scale`: f32 [G * N, N]. Vectors are means over tokens, of length 1,
 * as `kiln serve` makes them.
 */
function nearness(model: Encoder, inputs: PairInputs, scale: number): Tensor {
  const { blocked, dropoutKey } = inputs;
  const dropout = dropoutKey && new PassDropout(dropoutKey, model.dropoutRates);
  const [groups, size] = blocked.shape as [number, number, number];
  const vectors = (side: Side) => {
    const column = (name: Column) => inputs[`${side}_${name}`];
    const segments = column("segments");
    const input: EncoderInput = {
      ...{ tokens: column("tokens"), positions: column("positions"), segments, dropout },
      tokenTypes: column("tokenTypes"),
    };
    const pooled = pool(model.hidden(input), ne(segments, 0), "mean");
    return reshape(normalized(cast(pooled, "f32")), [groups, size, -1]);
  };
  const [queries, passages] = [vectors("query"), vectors("passage")];
  const cosines = matmul(queries, permute(passages, [0, 2, 1])); // [G, N, N]
  return reshape(add(mul(cosines, scale), blocked), [groups * size, size]);
}

/**
 * The sum of the losses of pairs, f32 []: a query's passage is to be the nearest of its group, by the cross-entropy of the cosines
 * times `scale` (MultipleNegativesRankingLoss of sentence-transformers; Henderson et al. 2017).
 */
export function rankingLoss(model: Encoder, inputs: PairInputs, scale: number): Tensor {
  return crossEntropyLoss(nearness(model, inputs, scale), inputs.places, { reduction: "sum" });
}

/** What is logged: means over pairs. The second is the share of queries whose passage is the nearest. */
export const rankingMetrics = ["validation_loss", "nearest_is_right"] as const;

/** Their sums over the pairs, f32 [2]. */
export function rankingSums(model: Encoder, inputs: PairInputs, scale: number): Tensor {
  const scores = nearness(model, inputs, scale);
  const right = cast(eq(cast(argmax(scores, -1), "i32"), inputs.places), "f32");
  return stack([crossEntropyLoss(scores, inputs.places, { reduction: "sum" }), sum(right)]);
}
