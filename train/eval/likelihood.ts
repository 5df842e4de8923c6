import { type Compiled, compile } from "../../core/compile.ts";
import { dispose, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { cat, crossEntropy, narrow, reshape } from "../../kernels/index.ts";
import type { CausalLM } from "../../models/decoder.ts";
import type { SpeedMeter } from "./speed.ts";

/** Tokens of which those from index `from` (1 or more) on are scored, each after all tokens before it. */
export interface Piece {
  tokens: readonly number[];
  from: number;
  /** Indices of tokens from there on that are read and not scored. */
  unscored?: ReadonlySet<number>;
}

/** Tokens that are computed together. */
const passTokens = 4096;
/** Logits that are held at a time, in numbers. */
const passLogits = 2 ** 25;
const ignored = -100;

/** The compiled pass of each model, so that it is traced once. */
const passes = new WeakMap<CausalLM, Compiled<[Tensor, Tensor, Tensor, Tensor], Tensor>>();

function passOf(model: CausalLM) {
  const known = passes.get(model);
  if (known) return known;
  const pass = compile((tokens: Tensor, targets: Tensor, positions: Tensor, segments: Tensor) =>
    noGrad(() => tokenLosses(model, { tokens, targets, positions, segments })),
  );
  passes.set(model, pass);
  return pass;
}

/**
 * The log-likelihood of each piece, in nats: the sum over its scored tokens. Pieces are packed into rows without seeing each
 * other. Memory does not grow with their number.
 */
export async function* logLikelihoods<P extends Piece>(
  model: CausalLM,
  pieces: AsyncIterable<P> | Iterable<P>,
  meter?: SpeedMeter,
): AsyncGenerator<{ piece: P; logLikelihood: number }> {
  const pass = passOf(model);
  let group: P[] = [];
  let size = 0;
  const flush = async () => {
    const rows = packed(group);
    const args = scope(() =>
      rows.columns.map((values) => tensor(values, [values.length / rows.length, rows.length], "i32")),
    ) as [Tensor, Tensor, Tensor, Tensor];
    const begin = performance.now();
    const losses = pass(...args);
    const nats = await losses.data();
    const [first] = group;
    meter?.add(size, performance.now() - begin, () => logLikelihoods(model, [first]).next());
    dispose([args, losses]);
    const sums = group.map(({ tokens, from, unscored }, i) => {
      let sum = 0;
      for (let k = from - 1; k < tokens.length - 1; k++)
        if (!unscored?.has(k + 1)) sum -= nats[rows.starts[i] + k];
      return sum;
    });
    const done = group.map((piece, i) => ({ piece, logLikelihood: sums[i] }));
    [group, size] = [[], 0];
    return done;
  };
  for await (const piece of pieces) {
    group.push(piece);
    size += piece.tokens.length - 1;
    if (size >= passTokens) yield* await flush();
  }
  if (group.length > 0) yield* await flush();
}

/** -log p of every target, [B * T]; the logits of some tokens at a time. */
function tokenLosses(
  model: CausalLM,
  batch: Record<"tokens" | "targets" | "positions" | "segments", Tensor>,
): Tensor {
  const hidden = model.hidden(batch.tokens, batch); // [B, T, hidden]
  const rows = batch.tokens.size;
  const flat = reshape(hidden, [rows, hidden.shape[2]]);
  const targets = reshape(batch.targets, [rows]);
  // A multiple of 64: slices then start where buffers may be bound.
  const chunk = Math.max(64, Math.floor(passLogits / model.shape.vocab_size / 64) * 64);
  const losses: Tensor[] = [];
  for (let at = 0; at < rows; at += chunk) {
    const count = Math.min(chunk, rows - at);
    const logits = model.logits(narrow(flat, 0, at, count)); // [count, vocab_size]
    losses.push(crossEntropy(logits, narrow(targets, 0, at, count), { reduction: "none" }));
  }
  return losses.length === 1 ? losses[0] : cat(losses, 0);
}

/** The smallest power of two that is at least `value`: few shapes, so that few steps are traced. */
const powerOfTwo = (value: number) => 2 ** Math.ceil(Math.log2(value));

/**
 * Pieces in rows of one length, the longest first, each in the first row where it fits. `columns` are tokens, targets,
 * positions and segments; `starts` the place of each piece.
 */
function packed(pieces: readonly Piece[]) {
  const sizes = pieces.map(({ tokens }) => tokens.length - 1);
  const length = powerOfTwo(Math.max(16, ...sizes));
  const used: number[] = [];
  const starts: number[] = [];
  for (const i of sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a] || a - b)) {
    const fits = used.findIndex((taken) => taken + sizes[i] <= length);
    const row = fits < 0 ? used.push(0) - 1 : fits;
    starts[i] = row * length + used[row];
    used[row] += sizes[i];
  }
  const column = (value: number) => new Int32Array(powerOfTwo(used.length) * length).fill(value);
  const [tokens, targets, positions, segments] = [column(0), column(ignored), column(0), column(0)];
  pieces.forEach((piece, i) => {
    for (let k = 0; k < sizes[i]; k++) {
      const at = starts[i] + k;
      tokens[at] = piece.tokens[k];
      if (k >= piece.from - 1) targets[at] = piece.tokens[k + 1];
      positions[at] = k;
      segments[at] = i + 1;
    }
  });
  return { columns: [tokens, targets, positions, segments], starts, length };
}
