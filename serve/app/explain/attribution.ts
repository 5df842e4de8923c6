import { grads } from "../../../core/autograd.ts";
import { KilnError } from "../../../core/errors.ts";
import { dispose, scope } from "../../../core/scope.ts";
import { noGrad } from "../../../core/tape.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { add, cast, crossEntropy, mul, reshape, slice, sub, sum } from "../../../kernels/index.ts";
import type { CausalLM } from "../../../models/decoder.ts";

/** Tokens of a text that is explained in full: the memory of attention maps grows with its square. */
const longestExplained = 512;
/** Midpoints of the path from nothing to the prompt. */
const steps = 16;
/** Tokens of a pass at most. */
const tokensAtOnce = 2048;

/** How much each token of a prompt adds to the log-probability of what follows, in nats. */
export interface Attribution {
  gradientTimesInput: number[];
  integratedGradients: number[];
  /** log p of what follows. */
  logprob: number;
  /** The same where each token of the prompt is the one that stands for nothing. */
  baseline: number;
  /** Integrated gradients sum to logprob - baseline up to this; it shrinks with more steps. */
  gap: number;
}

/** Positions [rows, length] of texts that begin at 0. */
export const positionsOf = (rows: number, length: number): Tensor =>
  tensor(
    Int32Array.from({ length: rows * length }, (_, i) => i % length),
    [rows, length],
    "i32",
  );

/**
 * Gradient x input and integrated gradients (Sundararajan et al. 2017; 16 midpoints) of the log-probability of `ids` from
 * place `from` on, with respect to the tokens before it. The path begins where all of these are `nothing`, such as the
 * end-of-text token: from zero embeddings, norms would divide by nearly nothing, and the sums would miss by multiples.
 * @throws KilnError for more than 512 tokens, or no token on either side of `from`
 */
export async function attribute(
  model: CausalLM,
  ids: readonly number[],
  from: number,
  nothing: number,
): Promise<Attribution> {
  assertExplained(model, ids, from);
  const slopesAt = (scales: readonly number[]) => slopes(model, { ids, from, nothing }, scales);
  const scales = Array.from({ length: steps }, (_, i) => (i + 0.5) / steps);
  const mean = new Array<number>(from).fill(0);
  const perPass = Math.max(1, Math.floor(tokensAtOnce / ids.length));
  for (let i = 0; i < steps; i += perPass) {
    const { products } = await slopesAt(scales.slice(i, i + perPass));
    for (const row of products.integrated) for (let t = 0; t < from; t++) mean[t] += row[t] / steps;
  }
  const whole = await slopesAt([1]);
  const [[logprob], [baseline]] = [whole.logprobs, (await slopesAt([0])).logprobs];
  const total = mean.reduce((a, b) => a + b, 0);
  return {
    gradientTimesInput: whole.products.input[0],
    integratedGradients: mean,
    ...{ logprob, baseline, gap: Math.abs(total - (logprob - baseline)) },
  };
}

/** @throws KilnError as `attribute`. */
export function assertExplained(model: CausalLM, ids: readonly number[], from: number): void {
  const most = Math.min(longestExplained, model.shape.max_position_embeddings);
  if (ids.length > most)
    throw new KilnError(
      `the text has ${ids.length} tokens, and ${most} can be explained in full: shorten it, or ask for the alternatives alone`,
      { code: "text_length" },
    );
  if (from < 1 || from >= ids.length)
    throw new KilnError(
      "there is nothing to explain: give a prompt of at least one token, and what follows",
      { code: "text_length" },
    );
}

/**
 * At each of some shares of the way from nothing to the prompt: log p of what follows, and its gradient times the embedding, and
 * times what the embedding has more than that of nothing, summed for each token.
 */
async function slopes(
  model: CausalLM,
  { ids, from, nothing }: { ids: readonly number[]; from: number; nothing: number },
  scales: readonly number[],
) {
  const [rows, length] = [scales.length, ids.length - 1];
  const followers = ids.slice(from);
  const found = scope(() => {
    const embed = (shown: readonly number[]) =>
      noGrad(() => model.embed(tensor(shown, [1, length], "i32"), positionsOf(1, length)));
    const read = ids.slice(0, length);
    const embedded = embed(read);
    const origin = embed(read.map((id, t) => (t < from ? nothing : id)));
    const more = noGrad(() => sub(embedded, origin));
    const share = cast(tensor(scales, [rows, 1, 1]), embedded.dtype);
    const inputs = noGrad(() => add(origin, mul(more, share))).requireGrad();
    const hidden = model.hiddenFrom(inputs, { positions: positionsOf(rows, length) });
    const places = slice(hidden, ":", [from - 1, length]);
    const flat = reshape(places, [rows * followers.length, hidden.shape[2]]);
    const targets = tensor(Int32Array.from(scales.flatMap(() => followers)), [flat.shape[0]], "i32");
    const each = crossEntropy(model.logits(flat), targets, { reduction: "none" });
    const [slope] = grads(sum(each), [inputs]);
    const perToken = (by: Tensor) => sum(cast(mul(slope!, by), "f32"), -1);
    return noGrad(() => ({
      integrated: perToken(more),
      input: perToken(embedded),
      losses: sum(reshape(each, [rows, followers.length]), 1),
    }));
  });
  const sums = await found.losses.data();
  const rowsOf = async (products: Tensor) => {
    const values = await products.data();
    return scales.map((_, row) => Array.from({ length: from }, (__, t) => -values[row * length + t]));
  };
  const products = { integrated: await rowsOf(found.integrated), input: await rowsOf(found.input) };
  dispose(found);
  return {
    products,
    logprobs: scales.map((_, row) => -sums[row]),
  };
}
