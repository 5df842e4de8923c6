import { dispose, scope } from "../../../core/scope.ts";
import { noGrad } from "../../../core/tape.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { narrow, reshape } from "../../../kernels/index.ts";
import type { CausalLM } from "../../../models/decoder.ts";
import type { Tokenizer } from "../../../tokenizer/index.ts";
import { tokenText } from "../../text/choice.ts";
import { type Attribution, assertExplained, attribute, positionsOf } from "./attribution.ts";

/** A token as a possible next one. */
export interface Alternative {
  id: number;
  text: string;
  probability: number;
}

/** A token of the text, with what the model expected in its place. */
export interface Choice extends Alternative {
  /** Of the model's distribution at this place, in nats. */
  entropy: number;
  /** The likeliest first. */
  alternatives: Alternative[];
}

/** Attention of a text to itself, row after row: T * T weights, rows sum to 1. */
export type AttentionMap = Float32Array;

export interface Explanation {
  /** The whole text, and where what follows the prompt begins. */
  tokens: string[];
  from: number;
  attribution: Attribution;
  /** A map for each layer and head. */
  attention: AttentionMap[][];
  rollout: AttentionMap;
  choices: Choice[];
}

/** Logits that are held at a time, in numbers. */
const logitsAtOnce = 2 ** 24;

/** What the model expected at each place from `from` on, a choice for each token there. */
export async function choicesOf(
  model: CausalLM,
  tokenizer: Tokenizer,
  ids: readonly number[],
  { from, count = 5 }: { from: number; count?: number },
): Promise<Choice[]> {
  const { vocab_size: size, hidden_size } = model.shape;
  const length = ids.length - 1;
  const most = Math.max(1, Math.floor(logitsAtOnce / size));
  const rows = scope(() =>
    noGrad(() => {
      const tokens = tensor(Int32Array.from(ids.slice(0, length)), [1, length], "i32");
      const hidden = reshape(model.hidden(tokens, { positions: positionsOf(1, length) }), [
        length,
        hidden_size,
      ]);
      const starts = Array.from(
        { length: Math.ceil((length - from + 1) / most) },
        (_, i) => from - 1 + i * most,
      );
      return starts.map((at) => model.logits(narrow(hidden, 0, at, Math.min(most, length - at))));
    }),
  );
  const choices: Choice[] = [];
  for (const logits of rows) {
    const values = await logits.data();
    for (let row = 0; row < logits.shape[0]; row++) {
      const id = ids[from + choices.length];
      choices.push(
        choiceOf(values.subarray(row * size, (row + 1) * size), id, count, (each) =>
          tokenText(tokenizer, each),
        ),
      );
    }
  }
  dispose(rows);
  return choices;
}

function choiceOf(
  logits: ArrayLike<number>,
  id: number,
  count: number,
  textOf: (id: number) => string,
): Choice {
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) most = Math.max(most, logits[i]);
  let [total, weighted] = [0, 0];
  const best: number[] = [];
  for (let i = 0; i < logits.length; i++) {
    const share = Math.exp(logits[i] - most);
    total += share;
    weighted += share * (logits[i] - most);
    if (best.length === count && logits[i] <= logits[best.at(-1)!]) continue;
    if (best.length === count) best.pop();
    const place = best.findIndex((each) => logits[each] < logits[i]);
    best.splice(place < 0 ? best.length : place, 0, i);
  }
  const alternative = (each: number) => ({
    id: each,
    text: textOf(each),
    probability: Math.exp(logits[each] - most) / total,
  });
  return {
    ...alternative(id),
    entropy: Math.log(total) - weighted / total,
    alternatives: best.map(alternative),
  };
}

/** The attention weights of a pass over a text, by layer and head. */
export async function attentionOf(model: CausalLM, ids: readonly number[]): Promise<AttentionMap[][]> {
  const layers = scope(() =>
    noGrad(() => {
      const seen: Tensor[] = [];
      const tokens = tensor(Int32Array.from(ids), [1, ids.length], "i32");
      const seeWeights = (weights: Tensor) => void seen.push(weights);
      model.hidden(tokens, { positions: positionsOf(1, ids.length), seeWeights });
      return seen;
    }),
  );
  const area = ids.length ** 2;
  const maps: AttentionMap[][] = [];
  for (const layer of layers) {
    const values = (await layer.data()) as Float32Array;
    maps.push(
      Array.from({ length: values.length / area }, (_, head) => values.slice(head * area, (head + 1) * area)),
    );
  }
  dispose(layers);
  return maps;
}

/**
 * Attention rollout (Abnar & Zuidema 2020): how much of each token's first representation is in each place after all layers, if
 * heads are averaged and half of every layer's output is its input.
 */
export function rolloutOf(layers: readonly AttentionMap[][], length: number): AttentionMap {
  let all = new Float32Array(length * length);
  for (let t = 0; t < length; t++) all[t * length + t] = 1;
  for (const heads of layers) {
    const next = new Float32Array(length * length);
    for (let t = 0; t < length; t++)
      for (let s = 0; s <= t; s++) {
        let weight = s === t ? 0.5 : 0;
        for (const head of heads) weight += (0.5 * head[t * length + s]) / heads.length;
        // What stands at s comes from places up to s alone.
        for (let u = 0; u <= s; u++) next[t * length + u] += weight * all[s * length + u];
      }
    all = next;
  }
  return all;
}

/**
 * Explains a model's text in full: what it expected, what of the prompt made the rest likely, and where it looked.
 * @throws KilnError as `attribute`
 */
export async function explain(
  model: CausalLM,
  tokenizer: Tokenizer,
  ids: readonly number[],
  from: number,
  count = 5,
): Promise<Explanation> {
  assertExplained(model, ids, from);
  const attention = await attentionOf(model, ids);
  return {
    tokens: ids.map((id) => tokenText(tokenizer, id)),
    from,
    attribution: await attribute(model, ids, from, tokenizer.eosId ?? tokenizer.bosId ?? 0),
    attention,
    rollout: rolloutOf(attention, ids.length),
    choices: await choicesOf(model, tokenizer, ids, { from, count }),
  };
}

/** A line for each token: its probability, the entropy at its place, and the likeliest. */
export function choiceLines(choices: readonly Choice[]): string[] {
  const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
  const width = Math.min(16, Math.max(...choices.map(({ text }) => JSON.stringify(text).length)));
  return choices.map(({ text, probability, entropy, alternatives }) => {
    const others = alternatives.map((one) => `${JSON.stringify(one.text)} ${percent(one.probability)}`);
    return `${JSON.stringify(text).padEnd(width)} ${percent(probability).padStart(6)}  entropy ${entropy.toFixed(2)}  ${others.join("  ")}`;
  });
}

/** Whether the sums agree with the integrated gradients, in a line. */
export const gapLine = ({ logprob, baseline, gap }: Attribution): string =>
  `log p ${logprob.toFixed(3)}, ${baseline.toFixed(3)} without the prompt; integrated gradients miss the difference by ${gap.toPrecision(2)} (${((100 * gap) / Math.abs(logprob - baseline || 1)).toFixed(1)}%, 16 steps)`;
